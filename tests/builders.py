"""Tiny models with deterministic weights, in the files and objects that users have."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors.torch import save_file
from seesr_pack.commands.headless.synthetic import VAE
from seesr_pack.seesr_modules.comfyui.compat import patcher_for
from seesr_pack.seesr_modules.comfyui.loading.dape import DapeModel
from seesr_pack.seesr_modules.comfyui.networks.cfw import CFW
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.dape.config import DapeConfig
from seesr_pack.seesr_modules.dape.tagger import Dape
from seesr_pack.seesr_modules.dape.tags import Vocabulary
from seesr_pack.seesr_modules.published import RAM
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
TEXT_WIDTH = 64
"""Text width of the tiny models, the same as in the golden UNet."""


def load_synth(golden: Path) -> ModuleType:
    """Import the recipe for synthetic weights from a folder of golden cases."""
    spec = importlib.util.spec_from_file_location("synth", golden / "synth.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def synthetic(golden: Path, name: str) -> dict[str, Tensor]:
    """Return the synthetic weights of a manifest. Callers share them and must not write to them.

    A folder of golden cases without its own recipe uses the one of ``tests/golden``.
    """
    synth = load_synth(golden if (golden / "synth.py").exists() else GOLDEN)
    shapes = json.loads((golden / "manifests" / f"{name}.json").read_text("utf-8"))
    return synth.synthetic_state_dict({parameter: tuple(shape) for parameter, shape in shapes.items()})


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Put a prefix before each name."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def text_sizes(width: int = TEXT_WIDTH) -> dict[str, int]:
    """Return the sizes of the tiny text encoder, under ComfyUI's names."""
    return {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2, "num_hidden_layers": 3}


def tiny_clip(width: int = TEXT_WIDTH) -> comfy.sd.CLIP:
    """Build ComfyUI's SD2 text encoder with three narrow layers."""
    target = comfy.supported_models.SD20({}).clip_target()
    target.params = {}
    sizes = text_sizes(width)
    clip = comfy.sd.CLIP(target, model_options={"clip_h_model_config": sizes, "dtype": torch.float32})
    synth = load_synth(GOLDEN)
    with torch.no_grad():
        for name, parameter in clip.cond_stage_model.named_parameters():
            parameter.copy_(synth.synthetic_tensor(name, tuple(parameter.shape)))
    return clip


def tiny_vae() -> comfy.sd.VAE:
    """Build ComfyUI's VAE with one narrow block per level."""
    sizes = {**VAE, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    parameters = {"ddconfig": sizes, "embed_dim": 4}
    synth = load_synth(GOLDEN)
    shapes = {name: tuple(t.shape) for name, t in AutoencoderKL(**parameters).state_dict().items()}
    weights = synth.synthetic_state_dict(shapes)
    return comfy.sd.VAE(sd=weights, config={"params": parameters}, dtype=torch.float32)


def sd_vae(weights: Mapping[str, Tensor]) -> comfy.sd.VAE:
    """Build ComfyUI's VAE from weights of any sizes in diffusers' names."""
    channels = weights["encoder.conv_in.weight"].shape[0]
    levels = sum(name.endswith("resnets.0.conv1.weight") and ".down_blocks." in name for name in weights)
    widths = [weights[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)]
    blocks = sum(name.startswith("encoder.down_blocks.0.resnets.") and ".conv1.w" in name for name in weights)
    return vae_of(weights, channels, [width // channels for width in widths], blocks)


def vae_of(weights: Mapping[str, Tensor], channels: int, channel_mult: list[int], blocks: int = 2) -> comfy.sd.VAE:
    """Build ComfyUI's VAE from weights in diffusers' names or in ComfyUI's."""
    sizes = {**VAE, "ch": channels, "ch_mult": channel_mult, "num_res_blocks": blocks}
    config = {"params": {"ddconfig": sizes, "embed_dim": 4}}
    return comfy.sd.VAE(sd=dict(weights), config=config, dtype=torch.float32)


def pisa_sr(golden: Path, unet: str, lora: str) -> dict[str, Any]:
    """Return the contents of a PiSA-SR file in the published layout, for the UNet of a manifest.

    The recipe gives the numbers by name, ``lora_B`` times 0.1. ``lora`` names a manifest of ranks and module lists.
    """
    synth = load_synth(golden if (golden / "synth.py").exists() else GOLDEN)
    shapes, plan = (json.loads((golden / "manifests" / f"{name}.json").read_text("utf-8")) for name in (unet, lora))
    state = {}
    for kind in ("pix", "sem"):
        rank = plan[f"lora_rank_unet_{kind}"]
        for part in ("encoder", "decoder", "others"):
            for module in plan[part]:
                out, *inner = shapes[f"{module}.weight"]
                sides = {"A": (rank, *inner), "B": (out, rank, *[1] * (len(inner) - 1))}
                for side, shape in sides.items():
                    name = f"{module}.lora_{side}.default_{part}_{kind}.weight"
                    state[name] = synth.synthetic_tensor(name, shape) * (0.1 if side == "B" else 1.0)
    lists = {f"unet_lora_{p}_modules_{k}": plan[p] for p in ("encoder", "decoder", "others") for k in ("pix", "sem")}
    ranks = {name: rank for name, rank in plan.items() if name.startswith("lora_rank_unet_")}
    return {**ranks, **lists, "state_dict_unet": state}


@cache
def small_unet(text_width: int = TEXT_WIDTH) -> dict[str, Tensor]:
    """Return synthetic weights of a UNet of two levels, in diffusers' names. It is quicker than the golden ones."""
    sizes = EncoderSizes(4, 64, (1, 1), (1, 1), (1, 0), 1, text_width)
    other = {"out_channels": 4, "adm_in_channels": None, "use_temporal_attention": False}
    config = comfy.supported_models.SD20({**sizes.comfyui_config(), **other})
    network = comfy.model_base.BaseModel(config, device=torch.device("meta")).diffusion_model.state_dict()
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    shapes = {name: tuple(network[path].shape) for name, path in names.items() if path in network}
    return load_synth(GOLDEN).synthetic_state_dict(shapes)


def one_step(unet: Mapping[str, tuple[int, ...]], is_pisa: bool) -> dict[str, dict[str, Tensor]]:
    """Return the contents of a one-step file of rank 1 and small constants, for a UNet of these shapes.

    OSEDiff's LoRA of the encoder is on its first convolution alone, which is the same in all tiny VAEs.
    """

    def loras(shapes: Mapping[str, tuple[int, ...]], suffix: str) -> dict[str, Tensor]:
        sides: dict[str, Tensor] = {}
        for name, (out, *inner) in shapes.items():
            module = f"{name.removesuffix('.weight')}.lora"
            sides[f"{module}_A.default_encoder{suffix}.weight"] = torch.full((1, *inner), 0.01)
            sides[f"{module}_B.default_encoder{suffix}.weight"] = torch.full((out, 1, *[1] * (len(inner) - 1)), 0.01)
        return sides

    without = ("time_emb", "image_attentions")
    adapted = {n: shape for n, shape in unet.items() if len(shape) > 1 and not any(part in n for part in without)}
    if is_pisa:
        return {"state_dict_unet": {**loras(adapted, "_pix"), **loras(adapted, "_sem")}}
    first = {f"conv_in.base_layer.{part}": torch.full(unet[f"conv_in.{part}"], 0.01) for part in ("weight", "bias")}
    encoder = loras({"encoder.conv_in.weight": (32, 3, 3, 3)}, "")
    return {"state_dict_unet": {**loras(adapted, ""), **first}, "state_dict_vae": encoder}


def cfw_layers() -> dict[str, Tensor]:
    """Return StableSR's CFW for 32 channels, as in its file but with nothing in front of the names."""
    with torch.device("meta"):
        network = CFW({1: 32, 2: 32}, comfy.ops.manual_cast)
    shapes = {n.replace("nin_shortcut", "conv_out"): tuple(t.shape) for n, t in network.state_dict().items()}
    return load_synth(GOLDEN).synthetic_state_dict(shapes)


def save_seesr(folder: Path, unet: Mapping[str, Tensor], controlnet: Mapping[str, Tensor]) -> Path:
    """Write a SeeSR in the published layout: ``unet`` and ``controlnet`` with one file each."""
    for name, weights in (("unet", unet), ("controlnet", controlnet)):
        (folder / name).mkdir(parents=True)
        save_file(dict(weights), folder / name / "diffusion_pytorch_model.safetensors")
    return folder


def save_tagger(folder: Path, golden: Path = GOLDEN) -> None:
    """Write ``ram.pth``, ``DAPE.pth`` and the tag lists of the golden tagger in the published layout."""
    torch.save({"model": synthetic(golden, "ram_tiny")}, folder / "ram.pth")
    torch.save(synthetic(golden, "dape_lora_tiny"), folder / "DAPE.pth")
    words = (golden / "tags" / "tags.txt").read_bytes()
    (folder / "ram_tag_list.txt").write_bytes(words)
    (folder / "ram_tag_list_threshold.txt").write_bytes((golden / "tags" / "thresholds.txt").read_bytes())


def small_dape(seed: int = 0, dtype: torch.dtype = torch.float32) -> DapeModel:
    """Build a tagger with twelve classes that sees 32x32 pixels: a pass takes milliseconds."""
    sizes = DapeConfig(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=(1, 1),
        num_heads=(1, 2),
        window_size=4,
        mlp_ratio=2,
        soft_prompt_width=512,  # as the tiny SeeSR reads
        num_classes=12,
        label_width=8,
        tag_width=16,
        tag_hidden=16,
        tag_layers=1,
    )
    network = Dape(sizes, comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)  # norms as they begin, no biases
    words = tuple(f"tag{number}" for number in range(12))
    compute = torch.float32 if dtype.itemsize == 1 else dtype
    return DapeModel(patcher_for(network.to(dtype).eval()), Vocabulary(words, (0.5,) * 12), compute)


def save_models(folder: Path) -> None:
    """Write tiny models into a user's models folder, under the published names."""
    seesr, rams = folder / "seesr", folder / "rams"
    rams.mkdir(parents=True)
    save_seesr(seesr / "SeeSR", *(synthetic(GOLDEN, f"seesr_{part}_small") for part in ("unet", "controlnet")))
    save_tagger(seesr)
    (seesr / "ram.pth").rename(rams / RAM.path)
