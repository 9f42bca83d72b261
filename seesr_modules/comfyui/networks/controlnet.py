"""SeeSR's ControlNet: ComfyUI's ControlNet with image attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...config import HEAD_WIDTH, EncoderSizes, ImageAttentionPlace, Shapes, StemSizes, telling_shape
from ...errors import SeeSRError
from ...method.image_attention import SOFT_PROMPT_KEY, ImageAttention, attach_hooks, require_match
from ...weights.checkpoint import TensorSource, controlnet_image_attention_places, load_strict

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase

RGB = 3
"""Channels of a hint."""

ATTENTION_PRECISION = torch.float32
"""Lowest precision for attention scores, as ComfyUI sets it for Stable Diffusion 2. In half precision they overflow."""


def image_attention_block(
    place: ImageAttentionPlace, dtype: torch.dtype | None, device: Any, operations: Any
) -> SpatialTransformer:
    """Build one image attention block: ComfyUI's own transformer in SD2's configuration."""
    return SpatialTransformer(
        place.channels,
        place.channels // HEAD_WIDTH,
        HEAD_WIDTH,
        depth=place.depth,
        context_dim=place.context_dim,
        use_linear=True,
        attn_precision=ATTENTION_PRECISION,
        dtype=dtype,
        device=device,
        operations=operations,
    )


def transformer_paths(unet_config: dict[str, Any]) -> dict[str, str]:
    """Return published name -> path in ComfyUI's UNet of every text transformer in a UNet config."""
    suffix = ".proj_in.weight"
    return {
        name.removesuffix(suffix): path.removesuffix(suffix)
        for name, path in comfy.utils.unet_to_diffusers(unet_config).items()
        if name.endswith(suffix) and "attentions" in name
    }


class Stem(nn.Module):
    """The pixel stem: eight convolutions that reduce the hint to the latent's resolution.

    Parameter names are the published ones below ``controlnet_cond_embedding``.
    """

    def __init__(self, sizes: StemSizes, dtype: torch.dtype | None, device: Any, operations: Any) -> None:
        """Build the stem: at each width one convolution, then one of stride two."""
        super().__init__()

        def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            return operations.Conv2d(inputs, outputs, 3, stride=stride, padding=1, dtype=dtype, device=device)

        self.conv_in = conv(sizes.hint_channels, sizes.widths[0])
        self.blocks = nn.ModuleList()
        for width, wider in zip(sizes.widths, sizes.widths[1:], strict=False):
            self.blocks += [conv(width, width), conv(width, wider, stride=2)]
        self.conv_out = conv(sizes.widths[-1], sizes.out_channels)

    def forward(self, hint: Tensor) -> Tensor:
        """Map a hint [B, 3, 8h, 8w] in [0, 1] to features [B, C, h, w]."""
        features = self.conv_in(hint)
        for block in self.blocks:
            features = block(nn.functional.silu(features))
        return self.conv_out(nn.functional.silu(features))


class _HintIsFeatures(nn.Module):
    """Replaces ComfyUI's stem, since the features are computed beforehand."""

    def forward(self, features: Tensor, *_unused: Any) -> Tensor:
        return features


class StemOutput:
    """The stem's features for one hint, computed in the first call and kept for the later steps."""

    def __init__(self, rows: int) -> None:
        """``rows`` is the number of distinct rows in a prepared hint. ComfyUI repeats them for each cond of a batch."""
        self.rows = rows
        self.features: Tensor | None = None

    def get(self, stem: Stem, hint: Tensor, batch: int) -> Tensor:
        """Return the features of ``batch`` rows, or a single row if all are equal."""
        if self.features is None:
            self.features = stem(hint[: self.rows])
        return self.features if self.rows == 1 else self.features.repeat(batch // self.rows, 1, 1, 1)


class ControlModel(comfy.cldm.cldm.ControlNet):
    """ComfyUI's ControlNet with SeeSR's image attention and a stem whose output can be kept."""

    def __init__(
        self,
        shapes: Shapes,
        dtype: torch.dtype | None = None,
        device: Any = None,
        operations: Any = None,
    ) -> None:
        """Build in the sizes of ``shapes``, given by published names.

        Raises:
            SeeSRError: The shapes are not those of a SeeSR ControlNet.
        """
        places = controlnet_image_attention_places(shapes)
        sizes = EncoderSizes.from_shapes(shapes)
        paths = transformer_paths(sizes.comfyui_config())
        encoder = {name: path for name, path in paths.items() if not name.startswith("up_blocks.")}
        widths = {
            name: telling_shape(shapes, f"{name}.proj_in.weight", 2, "The SeeSR ControlNet")[0] for name in encoder
        }
        require_match(places, widths, "its own ControlNet")
        stem = StemSizes.from_shapes(shapes)
        if (stem.hint_channels, stem.out_channels) != (RGB, sizes.model_channels):
            raise SeeSRError(
                f"The ControlNet's pixel stem takes {stem.hint_channels} channels and gives {stem.out_channels}, where "
                f"{RGB} and {sizes.model_channels} are needed: the file is not SeeSR's ControlNet."
            )
        super().__init__(
            **sizes.comfyui_config(),
            hint_channels=stem.hint_channels,
            attn_precision=ATTENTION_PRECISION,
            dtype=dtype,
            device=device,
            operations=operations,
        )
        self.text_width = sizes.context_dim
        self.input_hint_block = _HintIsFeatures()
        self.stem = Stem(stem, dtype, device, operations)
        self.image_attention = ImageAttention(
            places, lambda place: image_attention_block(place, dtype, device, operations)
        )
        self._paths = paths

    def forward(  # noqa: D102 - ComfyUI's signature plus three keyword arguments
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        stem_output: StemOutput | None = None,
        exact_timesteps: Tensor | None = None,
        soft_prompt_strength: float = 1.0,
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        soft_prompt = kwargs.pop(SOFT_PROMPT_KEY)
        features = stem_output.get(self.stem, hint, len(x)) if stem_output else self.stem(hint)
        blocks = self.image_attention.blocks_by_path(self._paths)
        steps = timesteps if exact_timesteps is None else exact_timesteps
        with attach_hooks(self, blocks, soft_prompt, soft_prompt_strength):
            return super().forward(x, features, steps, context, y=y, **kwargs)


def parameter_names(shapes: Shapes) -> dict[str, str]:
    """Return published name -> name in :class:`ControlModel`, for every tensor of a SeeSR ControlNet."""
    encoder = comfy.utils.unet_to_diffusers(EncoderSizes.from_shapes(shapes).comfyui_config())
    names = {}
    for name in shapes:
        head, _, rest = name.partition(".")
        if head == "controlnet_cond_embedding":
            names[name] = f"stem.{rest}"
        elif head == "controlnet_down_blocks":
            index, _, leaf = rest.partition(".")
            names[name] = f"zero_convs.{index}.0.{leaf}"
        elif head == "controlnet_mid_block":
            names[name] = f"middle_block_out.0.{rest}"
        elif ".image_attentions." in name:
            names[name] = f"image_attention.{name}"
        else:
            names[name] = encoder.get(name, name)
    return names


class SeeSRControlNet(comfy.controlnet.ControlNet):
    """ComfyUI's ControlNet object around :class:`ControlModel`."""

    cond_hint_original: Tensor
    cond_hint: Tensor | None

    default_soft_prompt: Tensor | None = None
    """Soft prompt for conds without one; conds that another node rebuilt have lost theirs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of ComfyUI's class."""
        super().__init__(*args, **kwargs)
        self.stem_outputs = WeakTensorKeyDictionary()
        """Original hint -> the stem's output for each number of rows and latent size."""

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the residuals for one batch of conds. ComfyUI calls this before each UNet pass."""
        if SOFT_PROMPT_KEY not in cond and self.default_soft_prompt is not None:
            prompt = comfy.utils.repeat_to_batch_size(self.default_soft_prompt, x_noisy.shape[0])
            cond = {**cond, SOFT_PROMPT_KEY: prompt}
        # ComfyUI's own are in the dtype of the weights, and bfloat16 has no 981: it makes 980 of it.
        self.extra_args["exact_timesteps"] = self.model_sampling_current.timestep(t).float()
        try:
            with self._keep_stem_output(x_noisy, batched_number):
                return super().get_control(x_noisy, t, cond, batched_number, *args, **kwargs)
        finally:
            del self.extra_args["exact_timesteps"]

    @contextmanager
    def _keep_stem_output(self, x: Tensor, conds: int) -> Iterator[None]:
        """Keep the stem's features for ``cond_hint_original`` from call to call, instead of the prepared pixels.

        The stem depends only on the hint, not on the step. If other code has already prepared a hint, the stem runs in
        every call, since that code may prepare another crop for the next one.

        Args:
            x: The latents [N, C, h, w] of the call.
            conds: The number of conds in them. ComfyUI repeats the hints for each, unless there are N hints already.
        """
        if self.cond_hint is not None or getattr(self, "cond_hints", None):
            yield
            return
        hint = self.cond_hint_original
        rows = len(hint) if len(hint) in (1, len(x)) else len(x) // conds
        outputs = self.stem_outputs.setdefault(hint, {})
        output = outputs.setdefault((rows, *x.shape[2:]), StemOutput(rows))
        self.extra_args["stem_output"] = output
        if output.features is not None:
            # A placeholder, so that ComfyUI does not prepare the hint again. NaN would show in the result.
            self.cond_hint_original = x.new_full((1, 1, 1, 1), torch.nan)
        try:
            yield
        finally:
            del self.extra_args["stem_output"]
            self.cond_hint_original, self.cond_hint = hint, None
            getattr(self, "cond_hints", {}).clear()  # where newer versions of ComfyUI keep it

    def copy(self) -> SeeSRControlNet:
        """Return a ControlNet with the same weights and its own settings."""
        copied = type(self)(None, load_device=self.load_device, manual_cast_dtype=self.manual_cast_dtype)
        copied.control_model = self.control_model
        copied.control_model_wrapped = self.control_model_wrapped
        self.copy_to(copied)
        copied.default_soft_prompt = self.default_soft_prompt
        return copied

    def cleanup(self) -> None:
        """Drop what belongs to the sampling run that ended."""
        self.stem_outputs.clear()
        super().cleanup()


def controlnets(conds: Iterable[Mapping[str, Any]]) -> list[ControlBase]:
    """Return every ControlNet in the conds once, with those chained before it and its clones on other devices."""
    found: dict[Any, None] = {}
    for cond in conds:
        control = cond.get("control")
        while control is not None:
            found.update(dict.fromkeys((control, *getattr(control, "multigpu_clones", {}).values())))
            control = control.previous_controlnet
    return list(found)


def load_controlnet(
    source: TensorSource, dtype: torch.dtype, compute_dtype: torch.dtype | None, load_device: torch.device
) -> SeeSRControlNet:
    """Load SeeSR's ControlNet from weights under their published names.

    Args:
        source: The weights.
        dtype: Type that the weights are stored in.
        compute_dtype: Type to compute in, if it differs from ``dtype``.
        load_device: Device that ComfyUI computes on.

    Raises:
        SeeSRError: The weights are incomplete or something else.
    """
    shapes = source.shapes()
    model = ControlModel(shapes, dtype=dtype, device="meta", operations=comfy.ops.manual_cast)
    load_strict(model, source, parameter_names(shapes), dtype, "the SeeSR ControlNet")
    return SeeSRControlNet(
        model,
        load_device=load_device,
        manual_cast_dtype=compute_dtype,
        extra_conds=[SOFT_PROMPT_KEY],
    )
