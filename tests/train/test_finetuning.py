"""Training that begins with what ships: nano's one file, and a checkpoint file of Stable Diffusion 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from likeness import assert_alike
from safetensors.torch import save_file
from seesr_pack.seesr_modules.comfyui.loading.nano import load_nano
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.nano.file import NANO_FILE, NanoFile, all_tensors
from seesr_pack.seesr_modules.nano.kind import is_nano
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.train.base_folder import KlAutoencoder, load_autoencoder, load_base
from seesr_pack.train.config import Training
from seesr_pack.train.loop import train
from seesr_pack.train.nano_base import RESULT, write_trained_nano
from seesr_pack.train.stages import build
from seesr_pack.train.taggers import TagWriter, load_tagger
from torch import Tensor

Settings = Callable[..., Training]


def test_nano_is_a_base_a_tagger_and_a_seesr(settings: Settings) -> None:
    """A step of fine-tuning on photos without labels writes a nano that Load Nano loads."""
    model = {"base": NANO_FILE, "ram": NANO_FILE, "seesr": NANO_FILE, "train_base": True}
    training = settings("seesr", model, steps=1, batch=1, learning_rate=1e-4, ema_decay=0.0)
    plain = training.model_copy(update={"photos": training.photos.model_copy(update={"manifest": None})})
    stage = build(plain)
    file = NanoFile(NANO_FILE)
    own = stage.denoiser.state_dicts()
    for name in ("unet", "controlnet"):
        given = all_tensors(getattr(file, name), torch.float32)
        assert own[name].keys() == given.keys()
        assert all(torch.equal(own[name][key], tensor) for key, tensor in given.items())
    assert stage.schedule.config.prediction_type == file.prediction_type
    train(stage, plain)
    found, before = NanoFile(plain.output / RESULT), NanoFile(NANO_FILE)
    assert found.vocabulary == before.vocabulary and found.known_tokens == before.known_tokens
    for part, changed in (("unet", True), ("controlnet", True), ("text_encoder", True), ("vae", False), ("dape", False)):
        new, old = (all_tensors(getattr(nano, part)) for nano in (found, before))
        assert new.keys() == old.keys()
        assert all(torch.equal(new[key], old[key]) for key in old) != changed, part
    load_nano(plain.output / RESULT)


def test_the_text_encoder_of_nano_is_that_of_the_node() -> None:
    loaded, text = load_nano(), "sky, tree, 8k"
    with torch.no_grad():
        found = load_base(NANO_FILE).text.eval()([text])
    assert_alike(found, loaded.clip.encode_from_tokens(loaded.clip.tokenize(text)))


def test_a_nano_as_dape_is_the_whole_tagger() -> None:
    expected, found = load_tagger(NANO_FILE).state_dict(), load_tagger(Path("no_ram.pth"), NANO_FILE).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert TagWriter(NANO_FILE)(torch.rand(1, 3, 32, 32)) is not None


def test_only_the_trained_parts_of_a_nano_change(tmp_path: Path) -> None:
    """transformers 4 writes the names of a text encoder with a prefix."""
    file = NanoFile(NANO_FILE)
    text = {f"text_model.{name}": tensor + 1 for name, tensor in all_tensors(file.text_encoder).items()}
    write_trained_nano(NANO_FILE, tmp_path / "mine.safetensors", {"text_encoder.": text})
    old, new = open_weights(NANO_FILE), open_weights(tmp_path / "mine.safetensors")
    assert old.shapes() == new.shapes() and dict(old.metadata) == dict(new.metadata)
    differing = {
        name for (name, a), (_, b) in zip(old.tensors(old), new.tensors(old), strict=True) if not torch.equal(a, b)
    }
    assert differing == {name for name in old if name.startswith("text_encoder.")}
    assert is_nano(tmp_path / "mine.safetensors")


def test_nano_is_told_from_other_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"seesr": "1"})
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "nano.pth").write_bytes(NANO_FILE.read_bytes())
    found = [is_nano(path) for path in (NANO_FILE, *sorted(tmp_path.iterdir()), tmp_path, tmp_path / "gone.safetensors")]
    assert found == [True, False, False, False, False, False]


def test_parts_of_different_models_are_refused_before_the_first_step(settings: Settings, tmp_path: Path) -> None:
    ldm = tmp_path / "base.safetensors"
    save_file(tiny_checkpoint(), ldm)
    training = settings("seesr", {"base": ldm, "ram": NANO_FILE, "seesr": NANO_FILE})
    with pytest.raises(SeeSRError, match=r"model: the text encoder has 64 channels and the UNet reads \d+: base, ram"):
        build(training)


def tiny_checkpoint() -> dict[str, Tensor]:
    """Return a whole checkpoint in Stable Diffusion 2's own layout, with two levels and narrow, with random weights."""
    from diffusers import AutoencoderKL
    from seesr_pack.seesr_modules.config import EncoderSizes

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 10

    import comfy.ldm.modules.diffusionmodules.openaimodel as openai
    import comfy.ops

    sizes = EncoderSizes(4, 64, (1, 2), (1, 1), (1, 0), 1, 64)
    config = sizes.comfyui_config() | {"out_channels": 4, "dtype": torch.float32}
    unet = openai.UNetModel(**config, operations=comfy.ops.disable_weight_init, device="cpu").state_dict()
    from comfy.ldm.models.autoencoder import AutoencoderKL as ComfyAutoencoder

    shape = {"double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32}
    vae = ComfyAutoencoder(
        embed_dim=4, ddconfig={**shape, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    ).state_dict()
    del AutoencoderKL
    tensors = {f"model.diffusion_model.{name}": random(*tensor.shape) for name, tensor in unet.items()}
    tensors |= {f"first_stage_model.{name}": random(*tensor.shape) for name, tensor in vae.items()}
    text = {
        "positional_embedding": (77, 64),
        "token_embedding.weight": (49408, 64),
        "ln_final.weight": (64,),
        "ln_final.bias": (64,),
        "text_projection": (64, 64),
    }
    for block in range(3):
        inside = {
            "ln_1.weight": (64,),
            "ln_1.bias": (64,),
            "ln_2.weight": (64,),
            "ln_2.bias": (64,),
            "attn.in_proj_weight": (192, 64),
            "attn.in_proj_bias": (192,),
            "attn.out_proj.weight": (64, 64),
            "attn.out_proj.bias": (64,),
            "mlp.c_fc.weight": (256, 64),
            "mlp.c_fc.bias": (256,),
            "mlp.c_proj.weight": (64, 256),
            "mlp.c_proj.bias": (64,),
        }
        text |= {f"transformer.resblocks.{block}.{name}": size for name, size in inside.items()}
    return tensors | {f"cond_stage_model.model.{name}": random(*size) for name, size in text.items()}
