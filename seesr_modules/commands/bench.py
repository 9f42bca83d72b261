"""Measure speed, cost and memory at the published sizes, on random weights.

One table and, with --json, a file. Times are compared within one run, as a ratio, never across runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SECTIONS = ("step", "cost", "memory", "dape", "loading")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(prog="run.py bench", description=(__doc__ or "").split("\n\n")[0])
    add = command.add_argument
    add(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)} (step and cost)",
    )
    add("--size", type=int, default=512, help="side of the picture of the section step, in pixels (512)")
    add("--rounds", type=int, default=3, help="timed pairs of the section step (3)")
    add("--sizes", type=int, nargs="+", default=[512, 768, 2048, 4096], help="sides for the section memory")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return command


def main(arguments: Sequence[str]) -> int:
    """Measure and print. Exit code 0 done, 2 wrong input."""
    options = parser().parse_args(arguments)
    chosen = options.sections or ["step", "cost"]
    unknown = sorted(set(chosen) - set(SECTIONS))
    if unknown:
        sys.stderr.write(f"There is no section {unknown[0]}: choose from {', '.join(SECTIONS)}.\n")
        return 2
    from ..host.device import device_flags, start_host

    start_host(device_flags())
    from ..bench import loading
    from ..bench.cost import cost_rows
    from ..bench.figures import Figure, table
    from ..host.measure import dape_rows, memory_rows, step_rows

    measure: dict[str, Callable[[], list[Figure]]] = {
        "step": lambda: step_rows(options.size, options.rounds),
        "cost": cost_rows,
        "memory": lambda: memory_rows(options.sizes),
        "dape": dape_rows,
        "loading": loading.rows,
    }
    figures: dict[str, list[Figure]] = {}
    for section in chosen:
        figures[section] = measure[section]()
        sys.stdout.write(f"{section}\n{table(figures[section])}\n\n")
        sys.stdout.flush()
        if options.json:
            rows = {name: [figure._asdict() for figure in found] for name, found in figures.items()}
            options.json.write_text(json.dumps(rows, indent=1), "utf-8")
    return 0
