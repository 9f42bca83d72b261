"""The untrained weights of `run.py upscale --model synthetic`: every published tensor, in files that load."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import builders
import comfy.model_detection
import comfy.utils
import pytest
import torch
from seesr_pack.commands.headless import synthetic
from seesr_pack.commands.presets import PRESETS
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.steps.tagging import tag
from seesr_pack.seesr_modules.config import EncoderSizes, Shapes
from seesr_pack.seesr_modules.dape.config import DapeConfig
from seesr_pack.seesr_modules.weights.checkpoint import unet_image_attention_names
from seesr_pack.seesr_modules.weights.one_step import open_one_step

SYNTH = builders.load_synth(builders.GOLDEN)


def test_a_packed_seesr_has_the_published_tensors() -> None:
    """Names and shapes equal the published ones for both parts, in the packed and the plain layout."""
    unet, controlnet = (SYNTH.load_shapes(f"seesr_{part}_full") for part in ("unet", "controlnet"))
    assert synthetic.seesr_shapes() == {"unet": unet, "controlnet": controlnet}
    published: Shapes = {
        **{f"unet.{name}": tuple(unet[name]) for name in unet_image_attention_names(unet)},
        **{f"controlnet.{name}": tuple(shape) for name, shape in controlnet.items()},
    }
    assert synthetic.packed_shapes() == published


def test_a_seed_gives_the_same_weights_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors are drawn one after the other, and ComfyUI lists their names in another order in each process."""
    before = [(part, *shapes) for part, shapes in synthetic.seesr_shapes().items()]
    names = comfy.utils.unet_to_diffusers
    monkeypatch.setattr(comfy.utils, "unet_to_diffusers", lambda config: dict(reversed(names(config).items())))
    assert [(part, *shapes) for part, shapes in synthetic.seesr_shapes().items()] == before


def test_the_checkpoint_is_a_complete_stable_diffusion_2() -> None:
    """The checkpoint has the published size, and ComfyUI recognises a base that predicts epsilon."""
    shapes = synthetic.checkpoint_shapes()
    parameters = {
        prefix: sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        for prefix in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.model.")
    }
    assert [round(count / 1e6) for count in parameters.values()] == [866, 84, 354]
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    tensors[bias] = dict(synthetic.random_tensors({bias: shapes[bias]}))[bias]
    config = comfy.model_detection.model_config_from_unet(tensors, "model.diffusion_model.")
    assert type(config).__name__ == "SD20"
    assert config.model_type(tensors, "model.diffusion_model.").name == "EPS"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files as small as the tiny models."""
    sizes = EncoderSizes.from_shapes(SYNTH.load_shapes("seesr_unet_small"))
    monkeypatch.setattr(synthetic, "SD2", sizes)
    monkeypatch.setattr(synthetic, "STEM", replace(synthetic.STEM, out_channels=sizes.model_channels))
    monkeypatch.setattr(synthetic, "DAPE", DapeConfig.from_shapes(SYNTH.load_shapes("ram_tiny")))
    monkeypatch.setattr(synthetic, "checkpoint_shapes", lambda: {"anything": (2, 2)})


def test_the_files_load_and_are_reproducible(small: None, tmp_path: Path) -> None:
    """The nodes' loaders read the packed files, and the tagger gives finite values."""
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        files = synthetic.write_synthetic(tmp_path / name, PRESETS["published"])
        assert files.keys() == {"checkpoint", "seesr", "dape"}
        written.append({kind: file.read_bytes() for kind, file in files.items()})
    assert written[0] == written[1]
    load_seesr_path(files["seesr"], "float32")
    dape = load_dape_path(files["dape"], None, "float32")
    assert tag(dape, torch.rand(1, 3, 64, 64)).soft_prompt.isfinite().all()


def test_one_step_files_have_the_published_loras() -> None:
    """Their number and size are those that the published lists of layers give for Stable Diffusion 2."""
    osediff, pisa = synthetic.one_step_shapes(is_pisa=False), synthetic.one_step_shapes(is_pisa=True)

    def count(shapes: Shapes, text: str) -> tuple[int, int]:
        sizes = [math.prod(shape) for name, shape in shapes.items() if text in name and ".lora_" in name]
        return len(sizes) // 2, sum(sizes)

    assert count(osediff, "state_dict_unet.") == count(pisa, "_pix.") == count(pisa, "_sem.") == (258, 4_055_712)
    assert count(osediff, "state_dict_vae.") == (32, 369_356)
    assert osediff["state_dict_unet.conv_in.base_layer.weight"] == (320, 4, 3, 3)


def test_each_one_step_preset_has_its_files(small: None, tmp_path: Path) -> None:
    """Files that are there stay."""
    kinds = {}
    for preset in ("onestep", "onestep_pisa"):
        files = synthetic.write_synthetic(tmp_path, PRESETS[preset])
        kinds[preset] = (open_one_step(files["onestep"]).kind, sorted(files))
    assert kinds == {
        "onestep": ("OSEDiff", ["checkpoint", "dape", "onestep"]),
        "onestep_pisa": ("PiSA-SR", ["checkpoint", "onestep"]),
    }
    files["checkpoint"].write_bytes(b"here before")
    synthetic.write_synthetic(tmp_path, PRESETS["onestep"])
    assert files["checkpoint"].read_bytes() == b"here before"
