"""Multiply-adds of the presets."""

from __future__ import annotations

from dataclasses import asdict

from ..commands.presets import PRESETS
from .figures import Figure
from .gmac import count_gmac, image_gmac

SIDE_PX = 512

BOUNDS = {"balanced": 0.30, "turbo": 0.04}
"""The largest allowed cost of a preset, as a share of the published one."""


def count_cost() -> list[Figure]:
    """Count one evaluation by part, and the presets at the published sizes, for a picture of 512x512.

    The presets of one-step models are left out: their evaluation is another one, without ControlNet.
    """
    step = count_gmac(SIDE_PX, SIDE_PX)
    parts = [Figure(f"one evaluation: {name.replace('_', ' ')}", value, "GMAC") for name, value in asdict(step).items()]
    full_size = {name: preset for name, preset in PRESETS.items() if preset.checkpoint and not preset.one_step}
    published = image_gmac(step, full_size["published"].evaluations)
    presets = []
    for name, preset in full_size.items():
        total = image_gmac(step, preset.evaluations)
        presets.append(Figure(f"preset {name}: {preset.evaluations} evaluations", total, "GMAC"))
        presets.append(Figure(f"preset {name}: share of published", total / published, "x", BOUNDS.get(name)))
    balanced = PRESETS["balanced"]
    limited = image_gmac(step, balanced.evaluations)
    throughout = image_gmac(step, 2 * balanced.steps)
    interval = [
        Figure("preset balanced, guided throughout", throughout, "GMAC"),
        Figure("guidance interval: saved of it", 1 - limited / throughout, "x"),
    ]
    return parts + presets + interval
