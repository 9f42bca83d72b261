"""Time and memory of SeeSR in the host, at the published sizes, on random weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import psutil
import torch
from torch import Tensor

from ..bench.figures import Figure
from ..bench.timing import PairedTiming, paired
from ..config import LATENT_PX
from ..dape.config import PUBLISHED_DAPE
from ..dape.tagger import Dape
from ..tiles import latent_tile, plan_tiles
from .model import apply_seesr, storage_dtypes
from .sampling import leading_sigmas, sample
from .steps import PlainControl, StepInputs, Weights, host_model, host_step, plain_steps, random_weights, step_inputs
from .tiling import tile_model

TILE_PX, OVERLAP_PX = 768, 128

HALF_PRECISION = (torch.float16, torch.bfloat16)

WARM_UP = 3
"""Steps on an accelerator before it has chosen its kernels and taken its memory."""


def step_rows(side_px: int, rounds: int) -> list[Figure]:
    """Time one step with guidance, always against the same run plainly on diffusers.

    On a CPU the host's step in float32 and in auto, against float32; and the host's UNet beside diffusers'
    ControlNet, which is what running a published-style ControlNet by itself would cost. On an accelerator both
    in each half precision, and a step in tiles.
    """
    if not comfy.model_management.is_device_cpu(comfy.model_management.get_torch_device()):
        weights = random_weights()
        return [row for dtype in HALF_PRECISION for row in _half_precision_rows(weights, dtype, side_px, rounds)]
    weights = random_weights()
    inputs = step_inputs(side_px, side_px)
    plain = plain_steps(weights, inputs, torch.float32)
    base, seesr = host_model(weights, torch.float32)
    ours = host_step(base, seesr, inputs)
    mixed = host_step(base, seesr, inputs, PlainControl(plain.controlnet))
    rows = _compared("float32", "plain diffusers", paired(ours, plain.whole, rounds))
    rows += _compared("float32", "host UNet and diffusers ControlNet", paired(ours, mixed, rounds))
    stored, compute = storage_dtypes("auto")
    auto = compute or stored
    if auto is not torch.float32:
        faster = host_step(*host_model(weights, auto), inputs)
        rows += _compared(f"auto ({auto})", "plain diffusers in float32", paired(faster, plain.whole, rounds))
        error = _deviation(base, inputs, faster(), plain.whole())
        rows.append(Figure("auto: mean deviation of epsilon from float32", error, "x of its mean"))
    return rows


def _half_precision_rows(weights: Weights, dtype: torch.dtype, side_px: int, rounds: int) -> list[Figure]:
    """Time a step of the host and the same on diffusers, both in ``dtype`` and with all weights on the device."""
    name = str(dtype).removeprefix("torch.")
    rounded = {part: {n: t.to(dtype) for n, t in tensors.items()} for part, tensors in weights.items()}
    held = sum(tensor.nbytes for tensors in rounded.values() for tensor in tensors.values())
    inputs, large = step_inputs(side_px, side_px), step_inputs(2 * side_px, 2 * side_px)
    base, seesr = host_model(rounded, dtype)
    ours = _finished(host_step(base, seesr, inputs))
    plain = _finished(plain_steps(rounded, inputs, dtype).whole)
    rows = _compared(name, f"{name}, plain diffusers", paired(ours, plain, rounds, warmup=WARM_UP))
    rows.append(Figure(f"{name}: weights", held / 2**20, "MiB"))
    for whose, step in ((name, ours), (f"{name}, plain diffusers", plain)):
        with _peak() as peak:
            step()
        rows.append(Figure(f"{whose}: peak above the weights", peak[0] / 2**20, "MiB"))
    rows.append(
        Figure(f"{name}: mean deviation of epsilon", _deviation(base, inputs, ours(), plain()), "x of its mean")
    )
    tile, overlap = latent_tile(TILE_PX, OVERLAP_PX)
    whole = _finished(host_step(base, seesr, large))
    tiled = _finished(host_step(tile_model(base, tile, overlap), seesr, large))
    in_tiles, at_once = f"{name}, {2 * side_px} px in tiles of {TILE_PX}", f"{name}, {2 * side_px} px at once"
    rows += _compared(in_tiles, at_once, paired(tiled, whole, rounds, warmup=WARM_UP))
    for what, step in ((in_tiles, tiled), (at_once, whole)):
        with _peak() as peak:
            step()
        rows.append(Figure(f"{what}: peak above the weights", peak[0] / 2**20, "MiB"))
    comfy.model_management.unload_all_models()
    return rows


def _finished(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return ``work`` that waits until the accelerator has done it."""

    def whole() -> Any:
        result = work()
        torch.accelerator.synchronize()
        return result

    return whole


def _deviation(base: Any, inputs: StepInputs, denoised: list[Tensor], epsilon: Tensor) -> float:
    """Return how far the epsilon behind the host's x0 is from diffusers', both conds, as a share of its mean."""
    sigma = base.model.model_sampling.sigma(torch.tensor([float(inputs.timestep)])).cpu()
    noisy = inputs.latent * torch.sqrt(1 + sigma**2)
    found, expected = (noisy - torch.cat(denoised).cpu().float()) / sigma, epsilon.cpu().float()
    return float((found - expected).abs().mean() / expected.abs().mean())


def _compared(name: str, other: str, timing: PairedTiming) -> list[Figure]:
    lowest, highest = timing.ratio_range
    return [
        Figure(f"{name}: one step", timing.median_a, "s"),
        Figure(f"{other}: one step", timing.median_b, "s"),
        Figure(f"{name} / {other}: median of rounds", timing.ratio, "x"),
        Figure(f"{name} / {other}: lowest", lowest, "x"),
        Figure(f"{name} / {other}: highest", highest, "x"),
    ]


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Watch the memory in use; afterwards the list holds how many bytes its peak was above the start."""
    found: list[float] = []
    if comfy.model_management.is_device_cpu(comfy.model_management.get_torch_device()):
        process, done, highest = psutil.Process(), threading.Event(), [0]

        def watch() -> None:
            while not done.wait(0.005):
                highest[0] = max(highest[0], process.memory_info().rss)

        start = process.memory_info().rss
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield found
        finally:
            done.set()
            watcher.join()
            found.append(max(highest[0] - start, 0))
    else:
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(torch.cuda.max_memory_allocated() - start)


def memory_rows(sides_px: Sequence[int]) -> list[Figure]:
    """Measure the peak above the weights of one tiled step without guidance, from small to large pictures.

    What grows with the picture by nature is counted apart: latents, hints and the stem's features.
    """
    stored, compute = storage_dtypes("auto")
    dtype = compute or stored
    weights = {part: {n: t.to(dtype) for n, t in tensors.items()} for part, tensors in random_weights().items()}
    base, seesr = host_model(weights, dtype)
    rows = []
    _one_step(base, seesr, 64)  # what the first pass allocates for good belongs to no size
    for side in sorted(sides_px):
        start = time.perf_counter()
        with _peak() as peak:
            canvas = _one_step(base, seesr, side)
        rows += [
            Figure(f"{side} px: peak above the weights", peak[0] / 2**20, "MiB"),
            Figure(f"{side} px: of it latents, hints and stem features", canvas / 2**20, "MiB"),
            Figure(f"{side} px: the rest", (peak[0] - canvas) / 2**20, "MiB"),
            Figure(f"{side} px: time of the step", time.perf_counter() - start, "s"),
        ]
    return rows


def _one_step(base: Any, seesr: Any, side_px: int) -> float:
    """Run one step in tiles; return the bytes that the picture's size alone asks for."""
    inputs = step_inputs(side_px, side_px)
    cond = [[inputs.positive, {}]]
    model, positive, negative = apply_seesr(base, seesr, cond, cond, inputs.hint, inputs.soft_prompt)
    tile, overlap = latent_tile(TILE_PX, OVERLAP_PX)
    model = tile_model(model, tile, overlap, tile_batch=1)
    latent = {"samples": inputs.latent}
    sample(model, positive, negative, latent, 0, 1.0, "euler", leading_sigmas(model, 1))
    height, width = inputs.latent.shape[-2:]
    layout = plan_tiles(height, width, tile, overlap)
    tiled_cells = len(layout.tiles) * layout.tile_height * layout.tile_width
    channels = seesr.controlnet.control_model.model_channels
    kept = tiled_cells * (3 * LATENT_PX**2 * 4 + (3 * LATENT_PX**2 + channels) * model.model_dtype().itemsize)
    latents = 8 * inputs.latent.numel() * 4
    return kept + latents + inputs.hint.numel() * 4


def dape_rows() -> list[Figure]:
    """Time the tagger per image, alone and in batches, in the type that auto chooses."""
    stored, compute = storage_dtypes("auto")
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

        timing = paired(look, look, rounds=2)
        rows.append(Figure(f"seconds per image, {batch} at once", timing.median_a / batch, "s"))
    return rows
