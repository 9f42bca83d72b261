"""Measure speed, cost and memory at the published sizes, on random weights, and the flicker of films with nano.

The figures are printed as one table, and written to a file with --json. Times are compared as ratios within one run,
never across runs. Figures that have an upper bound say whether they keep it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..commands.presets import PRESETS
from ..seesr_modules.errors import SeeSRError

SECTIONS = ("cost", "dape", "flicker", "step", "memory", "loading")
"""In the order in which they are measured, from seconds to many minutes."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(prog="run.py bench", description=(__doc__ or "").split("\n\n")[0])
    add = command.add_argument
    add(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)} (all)",
    )
    add("--size", type=int, default=512, help="side of the picture of the section step, in pixels (512)")
    add(
        "--rounds",
        type=int,
        default=9,
        help="timed pairs of the section step (9); a single one is off by up to a tenth",
    )
    add(
        "--photo",
        type=int,
        nargs="+",
        default=[],
        metavar="PX",
        help="section cost: also time a whole photo of these sides with each preset (on a CPU, hours)",
    )
    full_size = [name for name, preset in PRESETS.items() if preset.checkpoint]
    add("--presets", nargs="+", choices=full_size, default=full_size, help="presets for --photo (all but nano)")
    add("--sizes", type=int, nargs="+", default=[512, 768, 2048, 4096], help="sides for the section memory")
    add("--scene", type=Path, metavar="FILE", help="section flicker: the photo that the film shows (an astronaut)")
    add("--frames", type=int, default=5, help="section flicker: frames of the film (5)")
    add("--px", type=int, default=96, help="section flicker: side of the film, in pixels (96)")
    add("--pan", type=int, default=0, metavar="PX", help="section flicker: motion from frame to frame, in pixels (0)")
    add("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return command


def main(arguments: Sequence[str]) -> int:
    """Measure and print. Exit codes: 0 done, 1 a bound was missed, 2 wrong input."""
    options = parser().parse_args(arguments)
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        sys.stderr.write(f"There is no section {unknown[0]}: choose from {', '.join(SECTIONS)}.\n")
        return 2
    from ..seesr_modules.comfyui.device import device_flags, start_comfyui

    start_comfyui(device_flags())
    from . import flicker, loading, memory
    from .cost import count_cost
    from .figures import Figure, format_table
    from .photo import measure_photos
    from .step import measure_dape, measure_step

    measure: dict[str, Callable[[], list[Figure]]] = {
        "cost": lambda: count_cost() + (measure_photos(options.photo, options.presets) if options.photo else []),
        "dape": measure_dape,
        "flicker": lambda: flicker.measure(
            flicker.Scene(options.scene or flicker.PHOTO, options.frames, options.px, options.pan)
        ),
        "step": lambda: measure_step(options.size, options.rounds),
        "memory": lambda: memory.measure(options.sizes),
        "loading": loading.measure,
    }
    figures: dict[str, list[Figure]] = {}
    try:
        for section in options.sections or SECTIONS:
            sys.stderr.write(f"Measuring: {section}\n")
            figures[section] = measure[section]()
            if options.json:
                rows = {name: [figure._asdict() for figure in found] for name, found in figures.items()}
                options.json.write_text(json.dumps(rows, indent=1), "utf-8")
    except SeeSRError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        sys.stdout.write(f"{format_table(figures)}\n")
    return int(any(figure.missed for found in figures.values() for figure in found))
