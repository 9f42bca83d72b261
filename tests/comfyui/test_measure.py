"""The bench's measurements in ComfyUI, on tiny models: which figures there are, and what they count."""

from __future__ import annotations

import gc
import json
import mmap
import sys
import time
from dataclasses import replace
from typing import Any

import builders
import comfy.model_management
import pytest
import torch
from likeness import assert_alike
from scenes import Tiny
from seesr_pack.bench import denoising_step as steps
from seesr_pack.bench import memory_work
from seesr_pack.bench import step as measure
from seesr_pack.bench.memory import MemoryUse
from seesr_pack.commands.headless import synthetic
from seesr_pack.commands.headless.workflow import WORKFLOWS
from seesr_pack.commands.presets import PRESETS
from seesr_pack.seesr_modules.comfyui.loading import dtypes
from seesr_pack.seesr_modules.comfyui.steps.sampling import sampler_sigmas
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.dape.config import DapeConfig

pytestmark = pytest.mark.pinned_only("the bench measures with the pinned ComfyUI")

SYNTH = builders.load_synth(builders.GOLDEN)

SIDE_PX = 128
"""With 64 px the deepest features are 1x1, so GroupNorm has groups of two numbers, of which it leaves little but the
sign: it magnifies rounding up to 0.12 of epsilon, by the processor."""

ROUNDING = 0.03
"""Bound of the mean deviation in bfloat16, a share of epsilon's mean. Measured: 0.014 to 0.018, as in diffusers alone;
0.035 with a rounded timestep, and 0.3 between the positive and the negative."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the published sizes and the tiles by tiny ones."""
    sizes = EncoderSizes.from_shapes(SYNTH.load_shapes("seesr_unet_small"))
    monkeypatch.setattr(steps, "SD2", sizes)
    monkeypatch.setattr(synthetic, "SD2", sizes)
    monkeypatch.setattr(synthetic, "STEM", replace(synthetic.STEM, out_channels=sizes.model_channels))
    monkeypatch.setattr(measure, "PUBLISHED_DAPE", DapeConfig.from_shapes(SYNTH.load_shapes("ram_tiny")))
    monkeypatch.setattr(measure, "TILE_PX", 64)
    monkeypatch.setattr(measure, "OVERLAP_PX", 16)


@pytest.mark.parametrize("fast", [True, False])
def test_steps_on_a_cpu_are_compared_in_pairs(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair has two medians and a ratio. The bounds are on the ratios to a plain diffusers step."""
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: fast)
    rows = {row.name: row for row in measure.measure_step(SIDE_PX, rounds=1)}
    pairs = {name.partition(":")[0] for name in rows if " / " in name}
    auto = "auto (torch.bfloat16) / plain diffusers in float32"
    float32 = {"plain diffusers", "ComfyUI UNet with diffusers ControlNet"}
    expected = {*(f"float32 / {other}" for other in float32), "float32 without guidance / float32"}
    assert pairs == expected | ({auto} if fast else set())
    for pair in pairs:
        first, second, ratio = (
            rows[f"{pair}: {figure}"]
            for figure in ("median of the first", "median of the second", "median of the rounds' ratios")
        )
        assert ratio.value == pytest.approx(first.value / second.value)
        assert (first.unit, second.unit, ratio.unit) == ("s", "s", "x")
    bounds = {row.name: row.bound for row in rows.values() if row.bound is not None}
    ending = ": median of the rounds' ratios"
    plain = {f"float32 / {other}{ending}": 1.0 for other in float32}
    assert bounds == plain | ({f"{auto}{ending}": 0.4} if fast else {})
    assert not fast or 0 < rows["auto: mean deviation of epsilon from float32"].value < ROUNDING


def test_a_step_without_guidance_predicts_only_the_positive() -> None:
    """The step without guidance has half the batch and the same prediction."""
    base, seesr = steps.load_comfyui_model(steps.make_weights(), torch.float32)
    inputs = steps.make_inputs(64, 72)
    positive, _ = steps.prepare_comfyui_step(base, seesr, inputs)()
    (alone,) = steps.prepare_comfyui_step(base, seesr, inputs, guided=False)()
    assert_alike(alone, positive)


def test_steps_in_half_precision_are_compared_whole_and_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows are measured on an accelerator. The test replaces the accelerator's synchronisation."""
    monkeypatch.setattr(measure, "_synchronize", lambda work: work)
    rows = measure._measure_half_precision(steps.make_weights(), torch.bfloat16, SIDE_PX, 1)
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    assert sum(row.unit == "s" for row in rows) == 4
    assert sum("peak above the weights" in name for name in names) == 4
    (deviation,) = (row.value for row in rows if "deviation" in row.name)
    assert 0 < deviation < ROUNDING


def test_peak_memory_is_counted_above_the_start() -> None:
    """Memory that was freed during the measurement counts. Memory from before it does not."""
    size = 200_000_000

    def take_memory() -> mmap.mmap:
        memory = mmap.mmap(-1, size)
        memory[:: mmap.PAGESIZE] = bytes(1 + (size - 1) // mmap.PAGESIZE)
        return memory

    before = take_memory()
    with measure.peak_memory() as used:
        held = take_memory()
        time.sleep(1)  # memory is sampled at intervals
        held.close()
    before.close()
    assert 0.9 * size < used.peak_bytes < 1.5 * size
    assert used.seconds > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a heap cannot be told to give memory back")
def test_peak_memory_counts_memory_that_was_freed_before() -> None:
    """The process may have freed memory before, which stays in its heap. Taking it again counts as growth."""
    block, count = 100_000, 2000

    def take_memory() -> list[bytearray]:
        return [bytearray(block) for _ in range(count)]

    blocks = take_memory()
    above_them = bytearray(block)  # the heap cannot shrink below this block
    del blocks
    with measure.peak_memory() as used:
        held = take_memory()
        time.sleep(1)
        del held
    assert 0.9 * block * count < used.peak_bytes < 1.5 * block * count
    del above_them


def test_peak_memory_of_an_accelerator_comes_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda _device: False)
    values = {"memory_allocated": 30, "max_memory_allocated": 100, "reset_peak_memory_stats": None, "synchronize": None}
    for name, value in values.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    with measure.peak_memory() as used:
        pass
    assert used.peak_bytes == 70


def test_a_step_in_tiles_holds_the_counted_number_of_latents() -> None:
    """While the UNet works on a tile, the input latent and LATENTS others are alive."""
    base, seesr = steps.load_comfyui_model(steps.make_weights(), torch.float32)
    inputs = steps.make_inputs(120, 136)
    latent_counts = []

    def count(*_arguments: Any) -> None:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        latents = [t for t in tensors if t.shape == inputs.latent.shape and t.layout == torch.strided]
        latent_counts.append(len({t.untyped_storage().data_ptr() for t in latents}))

    handle = base.model.diffusion_model.register_forward_pre_hook(count)
    stem_features = memory_work._step(base, seesr, inputs)
    handle.remove()
    assert len(latent_counts) == 9
    assert max(latent_counts) == 1 + memory_work.LATENTS
    assert stem_features == 9 * 8 * 8 * steps.SD2.model_channels * 4


def test_a_steps_memory_is_reported_in_its_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result is one line of numbers, which the bench reads from the process."""
    flags: list[list[str]] = []
    monkeypatch.setattr(memory_work, "start_comfyui", flags.append)
    monkeypatch.setattr(memory_work, "device_flags", lambda: ["--cpu"])
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: True)
    memory_work.main(["128"])
    use = MemoryUse(*json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert flags == [["--cpu"]]
    assert use.given == 3 * 128**2 * 4 + 4 * 16**2 * 4
    assert use.latents == memory_work.LATENTS * 4 * 16**2 * 4
    assert use.stem_features == 9 * 8 * 8 * steps.SD2.model_channels * 2
    assert use.seconds > 0


def test_the_tagger_is_timed_alone_and_in_batches() -> None:
    rows = measure.measure_dape()
    assert [row.name for row in rows] == ["parameters", "seconds per image, 1 at once", "seconds per image, 8 at once"]
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets_agrees_with_their_workflows(tiny: Tiny, name: str) -> None:
    """Steps with guidance are all steps, those in the workflow's interval, or none if cfg is 1."""
    preset = PRESETS[name]
    workflow = json.loads((WORKFLOWS / f"{preset.workflow}.json").read_text("utf-8"))
    inputs = {node["class_type"]: node["inputs"] for node in workflow.values()}
    sampler = inputs["SeeSR_TiledSampler"]
    assert sampler["sampler_name"] in ("ddpm", "dpmpp_2m", "euler"), "one evaluation a step"
    found = tuple(sampler[key] for key in ("steps", "cfg", "sampler_name", "scheduler"))
    assert found == (preset.steps, preset.cfg, preset.sampler, preset.scheduler)
    settings = (sampler[key] for key in ("sampler_name", "scheduler", "steps", "denoise"))
    sigmas = sampler_sigmas(tiny.model, *settings)[:-1]
    interval = inputs.get("SeeSR_GuidanceInterval", {"start_percent": 0.0, "end_percent": 1.0})
    assert (interval["start_percent"], interval["end_percent"]) == preset.guidance
    percent_to_sigma = tiny.model.get_model_object("model_sampling").percent_to_sigma
    highest, lowest = map(percent_to_sigma, preset.guidance)
    guided = ((sigmas >= lowest) & (sigmas <= highest)).sum() if preset.cfg != 1.0 else 0
    assert (len(sigmas), guided) == (preset.steps, preset.guided_steps)
    assert inputs.get("CheckpointLoaderSimple", {}).get("ckpt_name") == preset.checkpoint
