"""Time and memory of SeeSR in ComfyUI, at the published sizes, on random weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.ops
import psutil
import torch
from torch import Tensor

from ..seesr_modules.comfyui.loading.dtypes import storage_dtypes
from ..seesr_modules.comfyui.tiling.prediction import tile_model
from ..seesr_modules.dape.config import PUBLISHED_DAPE
from ..seesr_modules.dape.tagger import Dape
from ..seesr_modules.method.tiles import TileSettings
from .denoising_step import (
    OtherControl,
    StepInputs,
    Weights,
    load_comfyui_model,
    make_inputs,
    make_weights,
    prepare_comfyui_step,
    prepare_plain_steps,
)
from .figures import Figure
from .process import give_back_free_memory
from .timing import PairedTiming, time_in_turn

TILE_PX, OVERLAP_PX = 768, 128

HALF_PRECISION = (torch.float16, torch.bfloat16)

FLOAT32_BOUND, AUTO_BOUND = 1.0, 0.40
"""Upper bounds of a step on a CPU, in float32 and in auto, as multiples of a plain step in float32."""

WARM_UP = 3
"""Steps that an accelerator needs to choose its kernels and allocate its memory."""


def measure_step(side_px: int, rounds: int) -> list[Figure]:
    """Time one guided step in pairs.

    On a CPU, ComfyUI's step in float32 is compared with diffusers, with ComfyUI's UNet beside diffusers' ControlNet
    (the cost of a ControlNet that runs by itself, as published), and with a step without guidance. Then its step in
    auto is compared with diffusers in float32. On an accelerator, its step in each half precision is compared with
    diffusers, and whole pictures with tiles.
    """
    try:
        if comfy.model_management.is_device_cpu(comfy.model_management.get_torch_device()):
            return _measure_on_cpu(side_px, rounds)
        weights = make_weights()
        return [row for dtype in HALF_PRECISION for row in _measure_half_precision(weights, dtype, side_px, rounds)]
    finally:
        comfy.model_management.unload_all_models()


def _measure_on_cpu(side_px: int, rounds: int) -> list[Figure]:
    weights = make_weights()
    inputs = make_inputs(side_px, side_px)
    plain = prepare_plain_steps(weights, inputs, torch.float32)
    base, seesr = load_comfyui_model(weights, torch.float32)
    ours = prepare_comfyui_step(base, seesr, inputs)
    mixed = prepare_comfyui_step(base, seesr, inputs, OtherControl(plain.controlnet))
    unguided = prepare_comfyui_step(base, seesr, inputs, guided=False)
    rows = _compare("float32", "plain diffusers", time_in_turn(ours, plain.whole, rounds), FLOAT32_BOUND)
    rows += _compare(
        "float32", "ComfyUI UNet with diffusers ControlNet", time_in_turn(ours, mixed, rounds), FLOAT32_BOUND
    )
    rows += _compare("float32 without guidance", "float32", time_in_turn(unguided, ours, rounds))
    stored, compute = storage_dtypes("auto")
    auto = compute or stored
    if auto is not torch.float32:
        faster = prepare_comfyui_step(*load_comfyui_model(weights, auto), inputs)
        timing = time_in_turn(faster, plain.whole, rounds)
        rows += _compare(f"auto ({auto})", "plain diffusers in float32", timing, AUTO_BOUND)
        error = _measure_deviation(base, inputs, faster(), plain.whole())
        rows.append(Figure("auto: mean deviation of epsilon from float32", error, "x of its mean"))
    return rows


def _measure_half_precision(weights: Weights, dtype: torch.dtype, side_px: int, rounds: int) -> list[Figure]:
    """Time a step in ComfyUI and in diffusers, both in ``dtype`` and with all weights on the device."""
    name = str(dtype).removeprefix("torch.")
    rounded = {part: {n: t.to(dtype) for n, t in tensors.items()} for part, tensors in weights.items()}
    held = sum(tensor.nbytes for tensors in rounded.values() for tensor in tensors.values())
    inputs, large = make_inputs(side_px, side_px), make_inputs(2 * side_px, 2 * side_px)
    base, seesr = load_comfyui_model(rounded, dtype)
    ours = _synchronize(prepare_comfyui_step(base, seesr, inputs))
    plain = _synchronize(prepare_plain_steps(rounded, inputs, dtype).whole)
    rows = _compare(name, f"{name}, plain diffusers", time_in_turn(ours, plain, rounds, warmup=WARM_UP))
    rows.append(Figure(f"{name}: weights", held / 2**20, "MiB"))
    rows += [_measure_peak(name, ours), _measure_peak(f"{name}, plain diffusers", plain)]
    deviation = _measure_deviation(base, inputs, ours(), plain())
    rows.append(Figure(f"{name}: mean deviation of epsilon", deviation, "x of its mean"))
    tiles = TileSettings.from_pixels(TILE_PX, OVERLAP_PX)
    whole = _synchronize(prepare_comfyui_step(base, seesr, large))
    tiled = _synchronize(prepare_comfyui_step(tile_model(base, tiles), seesr, large))
    in_tiles, at_once = f"{name}, {2 * side_px} px in tiles of {TILE_PX}", f"{name}, {2 * side_px} px at once"
    rows += _compare(in_tiles, at_once, time_in_turn(tiled, whole, rounds, warmup=WARM_UP))
    rows += [_measure_peak(in_tiles, tiled), _measure_peak(at_once, whole)]
    comfy.model_management.unload_all_models()
    return rows


def _measure_peak(name: str, step: Callable[[], Any]) -> Figure:
    with peak_memory() as used:
        step()
    return Figure(f"{name}: peak above the weights", used.peak_bytes / 2**20, "MiB")


def _synchronize(work: Callable[[], Any]) -> Callable[[], Any]:
    """Make ``work`` wait until the accelerator has finished it."""

    def whole() -> Any:
        result = work()
        torch.accelerator.synchronize()
        return result

    return whole


def _measure_deviation(base: Any, inputs: StepInputs, denoised: list[Tensor], epsilon: Tensor) -> float:
    """Return how far the epsilon of ComfyUI's x0 is from diffusers', for both conds, as a share of its mean."""
    sigma = base.model.model_sampling.sigma(torch.tensor([float(inputs.timestep)])).cpu()
    noisy = inputs.latent * torch.sqrt(1 + sigma**2)
    found, expected = (noisy - torch.cat(denoised).cpu().float()) / sigma, epsilon.cpu().float()
    return float((found - expected).abs().mean() / expected.abs().mean())


def _compare(name: str, other: str, timing: PairedTiming, bound: float | None = None) -> list[Figure]:
    """Return the medians of a pair and the ratio, whose upper bound is ``bound``."""
    lowest, highest = timing.ratio_range
    pair = f"{name} / {other}"
    return [
        Figure(f"{pair}: median of the first", timing.median_a, "s"),
        Figure(f"{pair}: median of the second", timing.median_b, "s"),
        Figure(f"{pair}: median of the rounds' ratios", timing.ratio, "x", bound),
        Figure(f"{pair}: lowest", lowest, "x"),
        Figure(f"{pair}: highest", highest, "x"),
    ]


@dataclass
class Used:
    """Time and memory of some work; filled in when the work is done."""

    seconds: float = 0.0
    peak_bytes: int = 0
    """Peak of the memory above its start."""


@contextmanager
def peak_memory() -> Iterator[Used]:
    """Measure time and memory within the context: the process's memory on a CPU, torch's on an accelerator."""
    used = Used()
    give_back_free_memory()
    start = time.perf_counter()
    if comfy.model_management.is_device_cpu(comfy.model_management.get_torch_device()):
        process, done = psutil.Process(), threading.Event()
        before = highest = process.memory_info().rss

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.005):
                highest = max(highest, process.memory_info().rss)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield used
        finally:
            done.set()
            watcher.join()
        used.peak_bytes = highest - before
    else:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield used
        torch.cuda.synchronize()
        used.peak_bytes = torch.cuda.max_memory_allocated() - before
    used.seconds = time.perf_counter() - start


def measure_dape() -> list[Figure]:
    """Time the tagger per image, alone and in batches, in the dtype of its auto."""
    stored, compute = storage_dtypes("float16")
    model = Dape(PUBLISHED_DAPE, comfy.ops.manual_cast, device="cpu", dtype=stored)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.02)
    device = comfy.model_management.get_torch_device()
    model.eval().requires_grad_(False).to(device)
    rows = [Figure("parameters", sum(p.numel() for p in model.parameters()) / 1e6, "M")]
    for batch in (1, 8):
        images = torch.rand(batch, 3, 256, 256, device=device)

        def look(images: torch.Tensor = images) -> None:
            with torch.inference_mode():
                model(images, compute or stored).logits.cpu()

        timing = time_in_turn(look, look, rounds=2)
        rows.append(Figure(f"seconds per image, {batch} at once", timing.median_a / batch, "s"))
    return rows
