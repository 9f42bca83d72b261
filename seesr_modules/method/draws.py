"""Random draws from a generator, for the degradations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


def draw_uniform(values: Range, generator: Generator) -> float:
    """Draw a number between two."""
    return values[0] + (values[1] - values[0]) * torch.rand((), generator=generator).item()


def draw_whole(values: tuple[int, int], generator: Generator) -> int:
    """Draw a whole number; both ends may come."""
    return int(torch.randint(values[0], values[1] + 1, (), generator=generator))


def happens(probability: float, generator: Generator) -> bool:
    """Draw whether something happens."""
    return torch.rand((), generator=generator).item() < probability


def choose(weights: Sequence[float], generator: Generator) -> int:
    """Draw a place in a list of weights."""
    return int(torch.multinomial(torch.tensor(weights, dtype=torch.float32), 1, generator=generator))


def shuffled(items: Sequence[str], generator: Generator) -> list[str]:
    """Return the items in random order."""
    return [items[place] for place in torch.randperm(len(items), generator=generator)]


def interpolate_range(harmless: float, values: Range, strength: float) -> Range:
    """Move a range towards a harmless value: at strength 0 it is that value, at 1 the range."""
    least, greatest = (harmless * (1 - strength) + value * strength for value in values)
    return least, greatest
