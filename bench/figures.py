"""One measured number, and how many of them are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """What was measured, how much it is, and in what."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    """The most that it may be, where that is laid down."""

    @property
    def missed(self) -> bool:
        """Whether it is more than it may be, or no number."""
        return self.bound is not None and not self.value <= self.bound


def table(sections: Mapping[str, Sequence[Figure]]) -> str:
    """Return the figures of all sections as aligned lines: section, name, value, unit and bound."""
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
