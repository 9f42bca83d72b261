"""SeeSR's denoiser on diffusers: what training optimises, and a second opinion on the host's modules.

The published UNet and ControlNet are Stable Diffusion 2's with one more transformer, the image attention,
after every text transformer. Here each of their blocks gets a module list called ``image_attentions``, so
that parameter names are the published ones, and forward hooks put its members in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ControlNetModel, Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from ..seesr_modules.config import (
    HEAD_WIDTH,
    LATENT_PX,
    STEM_WIDTHS,
    EncoderSizes,
    Shapes,
    StemSizes,
    image_attention_places,
)
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.weights.checkpoint import describe, require_fit

SOFT_PROMPT_DIM = 512
"""Width of the soft prompt that DAPE gives, as published."""

Control = tuple[Sequence[Tensor], Tensor]
"""What the ControlNet adds: to the skip connections, from the finest on, and to the mid block."""


class SeeSRDenoiser(nn.Module):
    """UNet and ControlNet with image attention: predicts a latent's noise, guided by text and the LR image.

    The base's parameters are frozen; the ControlNet and all image attentions are trainable.

    Source: paper section 3.2; published folders ``seesr/unet`` and ``seesr/controlnet``.
    """

    def __init__(
        self,
        encoder: EncoderSizes,
        stem_widths: tuple[int, ...] = STEM_WIDTHS,
        soft_prompt_dim: int = SOFT_PROMPT_DIM,
    ) -> None:
        """Build with random weights; under ``torch.device("meta")`` with none."""
        super().__init__()
        widths = [encoder.model_channels * factor for factor in encoder.channel_mult]
        layers = encoder.num_res_blocks[0]
        has_text = [depth > 0 for depth in encoder.transformer_depth[::layers]]
        shared: dict[str, Any] = {
            "in_channels": encoder.in_channels,
            "block_out_channels": widths,
            "down_block_types": ["CrossAttnDownBlock2D" if text else "DownBlock2D" for text in has_text],
            "layers_per_block": layers,
            "cross_attention_dim": encoder.context_dim,
            # Despite its name, how many heads.
            "attention_head_dim": [width // HEAD_WIDTH for width in widths],
            "use_linear_projection": True,
        }
        self.unet = UNet2DConditionModel(
            **shared,
            out_channels=encoder.in_channels,
            up_block_types=["CrossAttnUpBlock2D" if text else "UpBlock2D" for text in reversed(has_text)],
        )
        self.controlnet = ControlNetModel(**shared, conditioning_embedding_out_channels=stem_widths)
        self.unet.requires_grad_(False)
        for block in [*_text_blocks(self.unet), *_text_blocks(self.controlnet)]:
            block.image_attentions = nn.ModuleList(
                Transformer2DModel(
                    num_attention_heads=text.in_channels // HEAD_WIDTH,
                    attention_head_dim=HEAD_WIDTH,
                    in_channels=text.in_channels,
                    cross_attention_dim=soft_prompt_dim,
                    use_linear_projection=True,
                )
                for text in block.attentions
            )

    @classmethod
    def from_shapes(cls, unet: Shapes, controlnet: Shapes) -> SeeSRDenoiser:
        """Build with random weights, in the sizes that the published files' names and shapes tell.

        Raises:
            SeeSRError: a tensor that tells a size is missing.
        """
        places = image_attention_places(unet)
        if not places:
            raise SeeSRError(f"unet: no image attention in {describe(unet)}: give the UNet of the folder seesr/unet.")
        return cls(EncoderSizes.from_shapes(unet), StemSizes.from_shapes(controlnet).widths, places[0].context_dim)

    @classmethod
    def from_state_dicts(cls, unet: Mapping[str, Tensor], controlnet: Mapping[str, Tensor]) -> SeeSRDenoiser:
        """Build from the published files' tensors, which are taken over in their dtype, not copied.

        Raises:
            SeeSRError: tensors are missing or of the wrong shape, or of another network.
        """
        with torch.device("meta"):
            denoiser = cls.from_shapes(_shapes(unet), _shapes(controlnet))
        _load(denoiser.unet, unet, "unet", assign=True)
        _load(denoiser.controlnet, controlnet, "controlnet", assign=True)
        return denoiser

    @classmethod
    def from_base(
        cls,
        unet: Mapping[str, Tensor],
        stem_widths: tuple[int, ...] = STEM_WIDTHS,
        soft_prompt_dim: int = SOFT_PROMPT_DIM,
    ) -> SeeSRDenoiser:
        """Build for training from a base model's UNet; until trained, the result equals the base's.

        The ControlNet's encoder is a copy of the UNet's. Its residuals start at zero, and so does what every
        image attention adds. The remaining new weights are random: seed torch first.

        Args:
            unet: state dict of SD2-base's UNet in the diffusers layout; copied, as float32.
            stem_widths: widths of the ControlNet's pixel stem.
            soft_prompt_dim: width of the soft prompt.

        Raises:
            SeeSRError: tensors are missing or of the wrong shape, or of another network; it is no base model.
        """
        shapes = _shapes(unet)
        if image_attention_places(shapes):
            raise SeeSRError("unet: it has image attention already: give a base model's UNet, such as SD2-base's.")
        denoiser = cls(EncoderSizes.from_shapes(shapes), stem_widths, soft_prompt_dim)
        for block in [*_text_blocks(denoiser.unet), *_text_blocks(denoiser.controlnet)]:
            for image in block.image_attentions:
                nn.init.zeros_(image.proj_out.weight)
                nn.init.zeros_(image.proj_out.bias)
        own = denoiser.unet.state_dict()
        image_attentions = {name: own[name] for name in own if ".image_attentions." in name}
        _load(denoiser.unet, {**image_attentions, **unet}, "unet", assign=False)
        own = denoiser.controlnet.state_dict()
        encoder = {name: unet[name] for name in own if name in unet}
        _load(denoiser.controlnet, {**own, **encoder}, "controlnet", assign=False)
        return denoiser

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of ``unet`` and ``controlnet``, named as in the published folders."""
        return {"unet": self.unet.state_dict(), "controlnet": self.controlnet.state_dict()}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that training changes: the ControlNet's and all image attentions'."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in training: recompute activations in the backward pass."""
        self.unet.enable_gradient_checkpointing()
        self.controlnet.enable_gradient_checkpointing()

    def control(
        self,
        sample: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image_embed: Tensor,
        hint: Tensor,
        strength: float = 1.0,
    ) -> Control:
        """Run the ControlNet; arguments as for :meth:`forward`.

        Returns:
            The residuals [B,C_i,h_i,w_i] for the skip connections and the one for the mid block.

        Raises:
            SeeSRError: the hint is not eight times the latent.
        """
        height, width = sample.shape[-2:]
        wanted = (LATENT_PX * height, LATENT_PX * width)
        if hint.shape[-2:] != wanted:
            raise SeeSRError(
                f"hint: {hint.shape[-1]}x{hint.shape[-2]} pixels for a latent of {width}x{height}: "
                f"resize it to {wanted[1]}x{wanted[0]}."
            )
        with _image_attention_on(self.controlnet, image_embed):
            down, mid = self.controlnet(
                sample,
                timesteps,
                encoder_hidden_states=text,
                controlnet_cond=hint,
                conditioning_scale=strength,
                return_dict=False,
            )
        return down, mid

    def denoise(
        self,
        sample: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image_embed: Tensor,
        control: Control | None = None,
    ) -> Tensor:
        """Run the UNet with the residuals from :meth:`control`, or with none; see :meth:`forward`."""
        down, mid = control or (None, None)
        with _image_attention_on(self.unet, image_embed):
            (eps,) = self.unet(
                sample,
                timesteps,
                encoder_hidden_states=text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
                return_dict=False,
            )
        return eps

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image_embed: Tensor,
        hint: Tensor,
        strength: float = 1.0,
    ) -> Tensor:
        """Predict the noise in ``sample``.

        Args:
            sample: latent [B,4,h,w] at the variance-preserving scale.
            timesteps: [B], 0 to 999.
            text: the text encoder's output [B,77,text_dim].
            image_embed: soft prompt [B,145,soft_prompt_dim].
            hint: the upscaled LR image [B,3,8h,8w], RGB in [0,1].
            strength: factor on the ControlNet's residuals.

        Returns:
            The predicted noise (eps) [B,4,h,w].

        Raises:
            SeeSRError: the hint is not eight times the latent.
        """
        control = self.control(sample, timesteps, text, image_embed, hint, strength)
        return self.denoise(sample, timesteps, text, image_embed, control)


def _text_blocks(model: UNet2DConditionModel | ControlNetModel) -> list[Any]:
    """Return the blocks that hold text transformers (``attentions``), in the order in which they run."""
    blocks = [*model.down_blocks, model.mid_block, *getattr(model, "up_blocks", ())]
    return [block for block in blocks if hasattr(block, "attentions")]


@contextmanager
def _image_attention_on(model: UNet2DConditionModel | ControlNetModel, image_embed: Tensor) -> Iterator[None]:
    """Within the context, every text transformer's output goes on through its image attention."""

    def follow(text: nn.Module, image: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return text.register_forward_hook(
            lambda _module, _args, output: image(*output, encoder_hidden_states=image_embed, return_dict=False)
        )

    handles = [
        follow(text, image)
        for block in _text_blocks(model)
        for text, image in zip(block.attentions, block.image_attentions, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _load(module: nn.Module, tensors: Mapping[str, Tensor], what: str, *, assign: bool) -> None:
    read = require_fit(_shapes(module.state_dict()), _shapes(tensors), {name: name for name in tensors}, what)
    module.load_state_dict({name: tensors[name] for name in read}, assign=assign)
