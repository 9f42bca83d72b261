"""DAPE as a module: an image in, soft prompt and one logit per tag out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, relu, scaled_dot_product_attention

from ..errors import SeeSRError
from .swin import Layers, Swin

if TYPE_CHECKING:
    from ..config import Operations
    from .config import DapeConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BERT_NORM_EPS = 1e-12


class DapeOutput(NamedTuple):
    """DAPE's output for a batch of images, in float32.

    ``soft_prompt`` [B, tokens, soft_prompt_width], as published [B, 145, 512]; ``logits`` [B, classes].
    """

    soft_prompt: Tensor
    logits: Tensor


def squash(image: Tensor, image_size: int) -> Tensor:
    """Resize an image [B, 3, H, W] to ``image_size`` px squared, float32. One of that size keeps its values.

    The resampling is bilinear. If a side shrinks, the image is low-passed first to avoid aliasing. The published
    pipeline does not do that.
    """
    antialias = max(image.shape[2:]) > image_size
    return interpolate(image.float(), (image_size, image_size), mode="bilinear", antialias=antialias)


def preprocess(image: Tensor, image_size: int) -> Tensor:
    """Squash an image [B, 3, H, W] in [0, 1] with :func:`squash` and normalise it.

    Raises:
        SeeSRError: The image is empty or has no three channels.
    """
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise SeeSRError(f"The tagger's image has shape {tuple(image.shape)}; give a batch of RGB images [B, 3, H, W].")
    image = squash(image, image_size)
    mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    std = image.new_tensor(IMAGENET_STD)[:, None, None]
    return (image - mean) / std


class Output(nn.Module):
    """BERT's end of a sublayer: linear, residual, norm."""

    def __init__(self, in_width: int, width: int, layers: Layers) -> None:
        """``in_width`` channels come in, ``width`` go out."""
        super().__init__()
        self.dense = layers.linear(in_width, width)
        self.LayerNorm = layers.norm(width, eps=BERT_NORM_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """[..., in_width] and [..., width] to [..., width]."""
        return self.LayerNorm(residual + self.dense(x))


class CrossAttention(nn.Module):
    """BERT's cross-attention: queries from the tags, keys and values from the image."""

    def __init__(self, config: DapeConfig, layers: Layers) -> None:
        """Build with the sizes of ``config``."""
        super().__init__()
        width, context = config.tag_width, config.soft_prompt_width
        self.heads = config.tag_heads
        self.self = nn.ModuleDict(
            {
                "query": layers.linear(width, width),
                "key": layers.linear(context, width),
                "value": layers.linear(context, width),
            }
        )
        self.output = Output(width, width, layers)

    def forward(self, tags: Tensor, context: Tensor) -> Tensor:
        """``tags`` [B, classes, tag_width] to the same; ``context`` [B, tokens, soft_prompt_width]."""
        q, k, v = (
            rearrange(self.self[part](x), "b t (n d) -> b n t d", n=self.heads)
            for part, x in (("query", tags), ("key", context), ("value", context))
        )
        seen = scaled_dot_product_attention(q, k, v)
        return self.output(rearrange(seen, "b n t d -> b t (n d)"), tags)


class TagLayer(nn.Module):
    """BERT layer without self-attention: cross-attention to the image, then a feed-forward."""

    def __init__(self, config: DapeConfig, layers: Layers) -> None:
        """Build with the sizes of ``config``."""
        super().__init__()
        self.crossattention = CrossAttention(config, layers)
        self.intermediate = nn.ModuleDict({"dense": layers.linear(config.tag_width, config.tag_hidden)})
        self.output = Output(config.tag_hidden, config.tag_width, layers)

    def forward(self, tags: Tensor, context: Tensor) -> Tensor:
        """``tags`` [B, classes, tag_width] to the same; ``context`` [B, tokens, soft_prompt_width]."""
        tags = self.crossattention(tags, context)
        return self.output(gelu(self.intermediate["dense"](tags)), tags)


class Dape(nn.Module):
    """Degradation-aware prompt extractor: RAM's image encoder and tag head.

    Parameters have the published names, except the two kinds of tables, which are layers here (see :mod:`.weights`).

    Source: SeeSR section 3.2; "Recognize Anything", arXiv 2306.03514.
    """

    def __init__(
        self,
        config: DapeConfig,
        operations: Operations = torch.nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build with weights on ``device`` in ``dtype``. The device is "meta" if they are assigned later."""
        super().__init__()
        self.config = config
        layers = Layers(operations, device, dtype)
        self.visual_encoder = Swin(config, layers)
        self.image_proj = layers.linear(config.out_width, config.soft_prompt_width)
        self.label_embed = layers.table(config.num_classes, config.label_width)
        self.wordvec_proj = layers.linear(config.label_width, config.tag_width)
        tag_layers = nn.ModuleList(TagLayer(config, layers) for _ in range(config.tag_layers))
        self.tagging_head = nn.ModuleDict({"encoder": nn.ModuleDict({"layer": tag_layers})})
        self.fc = layers.linear(config.tag_width, 1)

    def forward(self, image: Tensor, dtype: torch.dtype = torch.float32) -> DapeOutput:
        """Compute soft prompt and logits of an image [B, 3, H, W] in [0, 1], of any size.

        Args:
            image: RGB, best the low-resolution image before upscaling.
            dtype: The type to compute in. Plain torch layers need that of the weights; ComfyUI's layers cast.

        Raises:
            SeeSRError: The image is empty or has no three channels.
        """
        pixels = preprocess(image, self.config.image_size).to(dtype)
        soft_prompt = self.image_proj(self.visual_encoder(pixels))
        labels = self.label_embed(torch.arange(self.config.num_classes, device=image.device)).to(dtype)
        tags = relu(self.wordvec_proj(labels)).expand(len(image), -1, -1)
        for layer in self.tagging_head.get_submodule("encoder.layer").children():
            tags = layer(tags, soft_prompt)
        return DapeOutput(soft_prompt.float(), self.fc(tags).squeeze(-1).float())
