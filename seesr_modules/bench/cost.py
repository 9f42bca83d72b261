"""What the presets cost, in multiply-adds."""

from __future__ import annotations

from dataclasses import asdict

from .figures import Figure
from .gmac import PRESETS, count_gmac, preset_gmac

SIDE_PX = 512


def cost_rows() -> list[Figure]:
    """Count one evaluation by part, and the presets, for a picture of 512x512."""
    step = count_gmac(SIDE_PX, SIDE_PX)
    parts = [Figure(f"one evaluation: {name.replace('_', ' ')}", value, "GMAC") for name, value in asdict(step).items()]
    published = preset_gmac(step, PRESETS["published"])
    presets = []
    for name, preset in PRESETS.items():
        total = preset_gmac(step, preset)
        presets.append(Figure(f"preset {name}: {preset.evaluations} evaluations", total, "GMAC"))
        presets.append(Figure(f"preset {name}: share of published", total / published, "x"))
    return parts + presets
