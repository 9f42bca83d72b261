"""One measured number, and how several are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """What was measured, how much it is, and in what."""

    name: str
    value: float
    unit: str


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned lines."""
    width = max((len(figure.name) for figure in figures), default=0)
    return "\n".join(f"  {name:<{width}}  {value:>12,.4g} {unit}" for name, value, unit in figures)
