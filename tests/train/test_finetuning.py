"""Training that begins with what ships: nano's one file, and a checkpoint file of Stable Diffusion 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.sd
import comfy.utils
import pytest
import torch
from likeness import assert_alike
from safetensors.torch import load_file, save_file
from seesr_pack.seesr_modules.comfyui.loading.nano import load_nano
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.nano.file import NANO_FILE, NanoFile, all_tensors
from seesr_pack.seesr_modules.nano.kind import is_nano
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.train.base_checkpoint import UNET, VAE
from seesr_pack.train.base_folder import load_autoencoder, load_base
from seesr_pack.train.config import Training
from seesr_pack.train.denoiser import SeeSRDenoiser
from seesr_pack.train.loop import train
from seesr_pack.train.nano_base import RESULT, write_trained_nano
from seesr_pack.train.stages import build
from seesr_pack.train.taggers import TagWriter, load_tagger
from torch import Tensor

Settings = Callable[..., Training]

TEXT, WORDS, LAYERS = 64, 49408, 3
"""Sizes of the text encoder in the checkpoint."""


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
    for part, changed in (
        ("unet", True),
        ("controlnet", True),
        ("text_encoder", True),
        ("vae", False),
        ("dape", False),
    ):
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
    found = [
        is_nano(path) for path in (NANO_FILE, *sorted(tmp_path.iterdir()), tmp_path, tmp_path / "gone.safetensors")
    ]
    assert found == [True, False, False, False, False, False]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint in the layout of `run.py download base`, small, with random weights."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tiny_checkpoint(TEXT).items()}, path)
    return path


def tiny_unet(context: int) -> dict[str, Tensor]:
    """Return a base's UNet in diffusers' layout."""
    torch.manual_seed(0)
    sizes = EncoderSizes(4, 64, (1, 2), (1, 1), (1, 0), 1, context)
    unet = SeeSRDenoiser(sizes).unet.state_dict()
    return {name: tensor for name, tensor in unet.items() if "image_attentions" not in name}


def tiny_checkpoint(context: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(*shape, generator=generator) / 10

    unet = base_model(tiny_unet(context)).model.diffusion_model.state_dict()
    tensors = {f"{UNET}{name}": tensor for name, tensor in unet.items()}
    tensors |= {f"{VAE}{name}": random(tuple(tensor.shape)) for name, tensor in tiny_vae().state_dict().items()}
    text = {
        "positional_embedding": (77, TEXT),
        "token_embedding.weight": (WORDS, TEXT),
        "text_projection": (TEXT, TEXT),
    }
    text |= {f"ln_final.{name}": (TEXT,) for name in ("weight", "bias")}
    for block in range(LAYERS):
        start = f"transformer.resblocks.{block}"
        for layer, (rows, columns) in {
            "attn.in_proj_": (3 * TEXT, TEXT),
            "attn.out_proj.": (TEXT, TEXT),
            "mlp.c_fc.": (4 * TEXT, TEXT),
            "mlp.c_proj.": (TEXT, 4 * TEXT),
        }.items():
            text |= {f"{start}.{layer}weight": (rows, columns), f"{start}.{layer}bias": (rows,)}
        text |= {f"{start}.ln_{which}.{name}": (TEXT,) for which in (1, 2) for name in ("weight", "bias")}
    return tensors | {f"cond_stage_model.model.{name}": random(shape) for name, shape in text.items()}


def tiny_vae() -> torch.nn.Module:
    """Return ComfyUI's autoencoder in a small size, eight pixels to a cell."""
    shape = {"double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32}
    more = {"ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    return comfy.sd.AutoencoderKL(embed_dim=4, ddconfig={**shape, **more})


def test_a_checkpoint_file_is_read_as_comfyui_reads_it(checkpoint: Path) -> None:
    """UNet and text encoder weight by weight, the autoencoder by what it computes. The last text layer is left out."""
    base, tensors = load_base(checkpoint), load_file(checkpoint)
    expected = tiny_unet(TEXT)
    assert base.unet.keys() == expected.keys()
    assert all(torch.equal(base.unet[name], tensor) for name, tensor in expected.items())
    names = comfy.utils.clip_text_transformers_convert(dict(tensors), "cond_stage_model.model.", "clip.")
    text = {name.removeprefix("text_model."): tensor for name, tensor in base.text.model.state_dict().items()}
    assert sum(name.endswith("mlp.fc1.weight") for name in text) == LAYERS - 1
    for name, tensor in text.items():
        if "position_ids" not in name:
            assert torch.equal(tensor, names[f"clip.text_model.{name}"]), name
    vae = tiny_vae()
    vae.load_state_dict({name.removeprefix(VAE): tensor for name, tensor in tensors.items() if name.startswith(VAE)})
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scale = base.autoencoder.model.config.scaling_factor
        assert_alike(base.autoencoder.decode(latents * scale), vae.decode(latents))
    schedule = base.schedule.config
    assert (schedule.prediction_type, schedule.beta_end, schedule.steps_offset) == ("epsilon", 0.012, 1)


def test_seesr_starts_from_a_checkpoint_file(settings: Settings, checkpoint: Path) -> None:
    model = {"base": checkpoint, "ram": NANO_FILE, "stem_widths": [16, 16, 16, 16]}
    training = settings("seesr", model, steps=1, batch=1, ema_decay=0.0)
    train(build(training), training)
    assert (training.output / "controlnet" / "diffusion_pytorch_model.safetensors").exists()
    assert not (training.output / RESULT).exists(), "only a nano becomes a nano"


def test_parts_of_different_models_are_refused_before_the_first_step(settings: Settings, tmp_path: Path) -> None:
    save_file({name: t.contiguous() for name, t in tiny_checkpoint(32).items()}, tmp_path / "base.safetensors")
    training = settings("seesr", {"base": tmp_path / "base.safetensors", "ram": NANO_FILE, "stem_widths": [16] * 4})
    with pytest.raises(SeeSRError, match=r"model: the text encoder has 64 channels and the UNet reads 32: base, ram"):
        build(training)


def test_a_base_of_another_kind_is_refused_with_what_to_give(tmp_path: Path) -> None:
    save_file({"lora_A": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(
        SeeSRError, match=r"base: .*lora\.safetensors is a LoRA .*not a whole checkpoint.*download base"
    ):
        load_base(tmp_path / "lora.safetensors")
    with pytest.raises(SeeSRError, match=r"base: .*has no folder unet: .*download base. fetches, or nano/nano"):
        load_base(tmp_path / "nowhere")
    with pytest.raises(SeeSRError, match="autoencoder: there is no folder"):
        load_autoencoder(tmp_path / "nowhere")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{")
    with pytest.raises(SeeSRError, match="vae"):
        load_autoencoder(tmp_path / "vae")
