"""Guidance in a part of the sampling run only: outside of it the negative branch is not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from comfy.patcher_extension import WrappersMP

from .patching import replace_wrapper

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

GUIDANCE_KEY = "seesr_guidance"


def limit_guidance(model: ModelPatcher, start_percent: float, end_percent: float) -> ModelPatcher:
    """Return a clone of ``model`` that is guided only between two points of the sampling run.

    Elsewhere every prediction is the positive one, so guidance of any strength changes nothing there and
    a step costs half. Source: "Applying Guidance in a Limited Interval", arXiv 2404.07724.

    Args:
        model: The host's MODEL.
        start_percent: Where guidance begins, 0 to 1 of the run.
        end_percent: Where it ends.
    """
    model = model.clone()
    sampling = model.get_model_object("model_sampling")
    highest, lowest = (float(sampling.percent_to_sigma(percent)) for percent in (start_percent, end_percent))
    replace_wrapper(model, WrappersMP.CALC_COND_BATCH, _within(highest, lowest), GUIDANCE_KEY)
    return model


def _within(highest: float, lowest: float) -> Callable[..., list[Tensor]]:
    def wrapper(
        executor: Any, model: Any, conds: list[Any], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
    ) -> list[Tensor]:
        if len(conds) < 2 or lowest <= float(timestep[0]) <= highest:
            return executor(model, conds, x, timestep, *args, **kwargs)
        (positive,) = executor(model, conds[:1], x, timestep, *args, **kwargs)
        return [positive] * len(conds)

    return wrapper
