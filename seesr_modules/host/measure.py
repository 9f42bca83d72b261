"""Time and memory of SeeSR in the host, at the published sizes, on random weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import psutil
import torch

from ..bench.figures import Figure
from ..bench.timing import PairedTiming, paired
from ..config import LATENT_PX
from ..dape.config import PUBLISHED_DAPE
from ..dape.tagger import Dape
from ..tiles import latent_tile, plan_tiles
from .model import apply_seesr, storage_dtypes
from .sampling import leading_sigmas, sample
from .steps import host_model, host_step, plain_steps, random_weights, step_inputs
from .tiling import tile_model

TILE_PX, OVERLAP_PX = 768, 128


def step_rows(side_px: int, rounds: int) -> list[Figure]:
    """Time one step with guidance, always against the same run plainly on diffusers in float32.

    The host's step in float32 and in auto; and the host's UNet beside diffusers' ControlNet, which is what
    running a published-style ControlNet by itself would cost.
    """
    weights = random_weights()
    inputs = step_inputs(side_px, side_px)
    plain = plain_steps(weights, inputs, torch.float32)
    base, seesr = host_model(weights, torch.float32)
    ours = host_step(base, seesr, inputs)
    unet_alone = host_step(base, seesr, inputs, strength=0.0)

    def mixed() -> None:
        plain.controlnet()
        unet_alone()

    rows = _compared("float32", "plain diffusers", paired(ours, plain.whole, rounds))
    rows += _compared("float32", "host UNet and diffusers ControlNet", paired(ours, mixed, rounds))
    stored, compute = storage_dtypes("auto")
    auto = compute or stored
    if auto is not torch.float32:
        faster = host_step(*host_model(weights, auto), inputs)
        rows += _compared(f"auto ({auto})", "plain diffusers in float32", paired(faster, plain.whole, rounds))
        exact, rounded = ours()[0], faster()[0]
        sigma = base.model.model_sampling.sigma(torch.tensor(float(inputs.timestep)))
        noisy = inputs.latent * torch.sqrt(1 + sigma**2)
        error = (exact - rounded).abs().mean() / (noisy - exact).abs().mean()
        rows.append(Figure("auto: mean deviation of epsilon from float32", float(error), "x of its mean"))
    return rows


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
