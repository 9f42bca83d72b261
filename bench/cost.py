"""Multiply-adds of the presets, and what they download."""

from __future__ import annotations

from dataclasses import asdict

from ..commands.presets import PRESETS, Preset
from ..seesr_modules.published import CATALOGUE
from .figures import Figure
from .gmac import StepGmac, count_gmac, image_gmac, vae_gmac

SIDE_PX = 512

BOUNDS = {"balanced": 0.30, "turbo": 0.04}
"""The largest allowed cost of a preset, as a share of the published one."""

VAE_BOUNDS = {"onestep": 0.03, "onestep_pisa": 0.03}
"""The same with the VAE, which is most of the cost of a one-step model."""

GB = 1e9


def count_cost() -> list[Figure]:
    """Count one evaluation by part, and the presets at the published sizes, for a picture of 512x512."""
    step, vae = count_gmac(SIDE_PX, SIDE_PX), vae_gmac(SIDE_PX, SIDE_PX)
    parts = [Figure(f"one evaluation: {name.replace('_', ' ')}", value, "GMAC") for name, value in asdict(step).items()]
    parts.append(Figure("VAE: encoding and decoding", vae, "GMAC"))
    full_size = {name: preset for name, preset in PRESETS.items() if preset.checkpoint}
    published = _preset_gmac(step, full_size["published"])
    presets = []
    for name, preset in full_size.items():
        total = _preset_gmac(step, preset)
        evaluations = f"{preset.evaluations} evaluation{'s' if preset.evaluations > 1 else ''}"
        share, whole = total / published, (total + vae) / (published + vae)
        presets += [
            Figure(f"preset {name}: {evaluations}", total, "GMAC"),
            Figure(f"preset {name}: share of published", share, "x", BOUNDS.get(name)),
            Figure(f"preset {name}: with the VAE", total + vae, "GMAC"),
            Figure(f"preset {name}: with the VAE, share of published", whole, "x", VAE_BOUNDS.get(name)),
            Figure(f"preset {name}: download", _download_bytes(preset) / GB, "GB"),
        ]
    balanced = PRESETS["balanced"]
    limited = image_gmac(step, balanced.evaluations)
    throughout = image_gmac(step, 2 * balanced.steps)
    interval = [
        Figure("preset balanced, guided throughout", throughout, "GMAC"),
        Figure("guidance interval: saved of it", 1 - limited / throughout, "x"),
    ]
    return parts + presets + interval


def _preset_gmac(step: StepGmac, preset: Preset) -> float:
    """Return the 10^9 multiply-adds of the denoiser. A one-step model is the UNet alone, with LoRAs in its weights."""
    return preset.evaluations * step.unet if preset.one_step else image_gmac(step, preset.evaluations)


def _download_bytes(preset: Preset) -> int:
    """Return the size of the files that a preset reads, as published."""
    targets = [word for word in preset.download.split() if not word.startswith("--")]
    files = {file for target in targets for file in CATALOGUE[target]}
    return sum(file.planned_bytes for file in files | ({preset.one_step} if preset.one_step else set()))
