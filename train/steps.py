"""What a step is made of: its learning rate, its pictures and its random draws. All depend on its number alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .config import Optimisation
from .stopping import ignore_signals
from .workers import telling_worker_errors

Batch = dict[str, Tensor]


def learning_rate(options: Optimisation, step: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then constant or a cosine down to the final rate."""
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    if not options.final_learning_rate:
        return options.learning_rate
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    share = (1 + math.cos(math.pi * done)) / 2
    return options.final_learning_rate + share * (options.learning_rate - options.final_learning_rate)


def load_batches(
    dataset: Dataset[Batch], options: Optimisation, accelerator: Accelerator, first_step: int
) -> Iterator[Batch]:
    """Yield the batches of this process from a step on, on its device."""
    first, last = (step * options.accumulation for step in (first_step, options.steps))
    world, rank, size = accelerator.num_processes, accelerator.process_index, options.batch
    starts = ((number * world + rank) * size for number in range(first, last))
    indices = [list(range(start, start + size)) for start in starts]
    loader = DataLoader(
        dataset,
        batch_sampler=indices,
        num_workers=options.workers,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=ignore_signals,
    )
    with telling_worker_errors():
        for batch in loader:
            yield {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}


def make_generator(device: torch.device, *key: int) -> torch.Generator:
    """Return a generator that is seeded by ``key`` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
