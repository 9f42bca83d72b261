"""Measured numbers, and the table that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """A measured number with its name and unit."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    """Upper bound, if there is one."""

    @property
    def missed(self) -> bool:
        """Whether the value exceeds its bound or is NaN."""
        return self.bound is not None and not self.value <= self.bound


def format_table(sections: Mapping[str, Sequence[Figure]]) -> str:
    """Return one aligned line per figure: section, name, value, unit and bound."""
    rows = [(section, figure) for section, figures in sections.items() for figure in figures]
    first = max((len(section) for section, _ in rows), default=0)
    second = max((len(figure.name) for _, figure in rows), default=0)
    lines = []
    for section, figure in rows:
        line = f"{section:<{first}}  {figure.name:<{second}}  {figure.value:>12,.4g} {figure.unit:<4}"
        if figure.bound is not None:
            line += f"  at most {figure.bound:g}: {'MISSED' if figure.missed else 'kept'}"
        lines.append(line.rstrip())
    return "\n".join(lines)
