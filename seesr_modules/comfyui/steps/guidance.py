"""Guidance in a part of the sampling run. In the other steps only the positive is predicted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.samplers import calc_cond_batch, cfg_function

from ...errors import SeeSRError
from ..wrappers import replace_wrapper

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

GUIDANCE_KEY = "seesr_guidance"


def limit_guidance(model: ModelPatcher, start_percent: float, end_percent: float) -> ModelPatcher:
    """Return a clone of ``model`` that is guided only between two points of the sampling run.

    The other steps use the positive prediction alone, whatever the guider, so a step with one negative costs half.
    While it samples, the MODEL raises :class:`SeeSRError` if its guider has no positive conditioning.
    Source: "Applying Guidance in a Limited Interval", arXiv 2404.07724.

    Args:
        model: ComfyUI's MODEL.
        start_percent: Where guidance begins, 0 to 1 of the run.
        end_percent: Where guidance ends, 0 to 1 of the run.
    """
    model = model.clone()
    sampling = model.get_model_object("model_sampling")
    highest, lowest = (float(sampling.percent_to_sigma(percent)) for percent in (start_percent, end_percent))
    replace_wrapper(model, WrappersMP.PREDICT_NOISE, _guide_within(highest, lowest), GUIDANCE_KEY)
    return model


def _guide_within(highest: float, lowest: float) -> Callable[..., Tensor]:
    """Return the wrapper that guides between two noise levels. The MODEL's other wrappers run in every step."""

    def wrapper(
        executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        if lowest <= float(timestep[0]) <= highest:
            return executor(x, timestep, model_options, *args, **kwargs)
        guider = executor.class_obj
        inner = WrapperExecutor.new_class_executor(
            partial(_predict_positive, guider), guider, executor.wrappers, executor.idx + 1
        )
        return inner.execute(x, timestep, model_options, *args, **kwargs)

    return wrapper


def _predict_positive(
    guider: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *_args: Any, **_kwargs: Any
) -> Tensor:
    """Predict as a guider of strength 1 does. Later hooks get the positive prediction as the negative one, too."""
    positive = guider.conds.get("positive")
    if positive is None:
        raise SeeSRError(
            f"Guidance Interval finds no positive conditioning in the guider {type(guider).__name__}: "
            "use one of ComfyUI's guiders, or leave Guidance Interval out."
        )
    model = guider.inner_model
    (predicted,) = calc_cond_batch(model, [positive], x, timestep, model_options)
    return cfg_function(
        model, predicted, predicted, 1.0, x, timestep, model_options=model_options, cond=positive, uncond=positive
    )
