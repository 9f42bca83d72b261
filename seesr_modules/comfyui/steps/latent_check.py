"""Checks, from the conditioning, that a run's latent shows the same pictures as the hint of SeeSR's ControlNet.

The check surrounds the run, so it also drops what the ControlNet kept, after an interrupt too. ComfyUI's own clean-up
comes only after a run that succeeds.
"""

from __future__ import annotations

from typing import Any

from comfy.hooks import HookGroup, TransformerOptionsHook
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...config import LATENT_PX
from ...errors import SeeSRError
from ..networks.controlnet import SeeSRControlNet, controlnets
from ..wrappers import WRAPPER_KEY


def latent_check() -> HookGroup:
    """Return hooks for a ControlNet that check the latent of each run, with any MODEL."""
    hooks = HookGroup()
    hooks.add(
        TransformerOptionsHook({"wrappers": {WrappersMP.SAMPLER_SAMPLE: {f"{WRAPPER_KEY}_latent": [_check_latent]}}})
    )
    return hooks


def _check_latent(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    found = controlnets(cond for conds in guider.conds.values() for cond in conds)
    own = [control for control in found if isinstance(control, SeeSRControlNet)]
    for control in own:
        _check_pictures(noise, control.cond_hint_original)
    try:
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    finally:
        for control in own:
            control.stem_outputs.clear()


def _check_pictures(latent: Tensor, hint: Tensor) -> None:
    """Check that a latent [N, 4, h, w] has the size of a hint [B, 3, 8h, 8w], and its pictures N / B times each.

    Otherwise ComfyUI would enlarge or repeat the hint until it fits. Nodes that sample a part of the picture put the
    same part of the hint into the ControlNet before the run begins, so they pass.
    """
    count, _, rows, columns = latent.shape
    batch, _, height, width = hint.shape
    if (rows * LATENT_PX, columns * LATENT_PX) != (height, width) or count % batch:
        raise SeeSRError(
            f"The latent is of {count} pictures of {columns * LATENT_PX}x{rows * LATENT_PX} pixels and the hint of "
            f"{batch} of {width}x{height}: take latent and hint from the same LR Embed. To sample again at a larger "
            "size, run LR Embed and SeeSR ControlNet Apply again at that size."
        )
