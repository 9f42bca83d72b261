"""What the presets cost, in multiply-adds."""

from __future__ import annotations

from dataclasses import asdict, replace

from .figures import Figure
from .gmac import PRESETS, count_gmac, preset_gmac

SIDE_PX = 512

BOUNDS = {"balanced": 0.30, "turbo": 0.04}
"""The most that presets may cost, as shares of the published one."""


def cost_rows() -> list[Figure]:
    """Count one evaluation by part, and the presets, for a picture of 512x512."""
    step = count_gmac(SIDE_PX, SIDE_PX)
    parts = [Figure(f"one evaluation: {name.replace('_', ' ')}", value, "GMAC") for name, value in asdict(step).items()]
    published = preset_gmac(step, PRESETS["published"])
    presets = []
    for name, preset in PRESETS.items():
        total = preset_gmac(step, preset)
        presets.append(Figure(f"preset {name}: {preset.evaluations} evaluations", total, "GMAC"))
        presets.append(Figure(f"preset {name}: share of published", total / published, "x", BOUNDS.get(name)))
    balanced = PRESETS["balanced"]
    limited = preset_gmac(step, balanced)
    throughout = preset_gmac(step, replace(balanced, guided_steps=balanced.steps))
    interval = [
        Figure("preset balanced, guided throughout", throughout, "GMAC"),
        Figure("guidance interval: saved of it", 1 - limited / throughout, "x"),
    ]
    return parts + presets + interval
