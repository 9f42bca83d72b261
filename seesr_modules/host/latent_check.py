"""A check that travels with the conditioning: the latent has to be of the pictures that SeeSR's ControlNet is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy.hooks import HookGroup, TransformerOptionsHook
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ..config import LATENT_PX
from ..errors import SeeSRError
from .controlnet import SeeSRControlNet, controlnets
from .patching import WRAPPER_KEY

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class _LatentCheck(TransformerOptionsHook):
    """Puts the check on the sampling run of whatever MODEL a ControlNet's conditioning is used with.

    ComfyUI asks the hooks of ControlNets before each run. This one adds a wrapper and does not register itself, so
    ComfyUI groups the conds as if there were no hook.
    """

    def add_hook_patches(self, model: ModelPatcher, model_options: dict[str, Any], *_unused: Any) -> bool:
        key = f"{WRAPPER_KEY}_latent"
        add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, _checked, model_options, is_model_options=True)
        return False


def _checked(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    for control in controlnets(cond for conds in guider.conds.values() for cond in conds):
        if isinstance(control, SeeSRControlNet):
            _require_same_pictures(noise, control.cond_hint_original)
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def _require_same_pictures(latent: Tensor, hint: Tensor) -> None:
    """Check that a latent [N, 4, h, w] is of the pictures of a hint [B, 3, 8h, 8w], each N / B times.

    ComfyUI would enlarge or repeat the hint until it fits. The hint is the one that the ControlNet holds when the run
    begins: nodes that sample a part of the picture put the same part of the hint there.
    """
    count, _, rows, columns = latent.shape
    batch, _, height, width = hint.shape
    if (rows * LATENT_PX, columns * LATENT_PX) != (height, width) or count % batch:
        raise SeeSRError(
            f"The latent is of {count} pictures of {columns * LATENT_PX}x{rows * LATENT_PX} pixels and the hint of "
            f"{batch} of {width}x{height}: take latent and hint from the same LR Embed. To sample again at a larger "
            "size, run LR Embed and SeeSR ControlNet Apply again at that size."
        )


LATENT_CHECK = HookGroup()
"""For a SeeSR ControlNet's ``extra_hooks``."""
LATENT_CHECK.add(_LatentCheck())
