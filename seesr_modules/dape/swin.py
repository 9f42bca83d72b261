"""RAM's image encoder, a Swin transformer, under the names of its published weights.

The SwinModel of transformers needs as much time and memory on a CPU (2.9 to 3.1 s a picture on one thread, this one 3.0
to 3.3 s). It is not used, because its layers are torch's own, without ComfyUI's casting and offload. It also splits
query, key and value, and names them differently in transformers 4 and 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

if TYPE_CHECKING:
    from ..config import Operations
    from .config import DapeConfig


class Layers:
    """``operations`` with the device and dtype of the weights filled in."""

    def __init__(self, operations: Operations, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Keep the operations, device and dtype of every layer."""
        self._operations = operations
        self._where = {"device": device, "dtype": dtype}

    def linear(self, in_width: int, out_width: int, bias: bool = True) -> nn.Module:
        """Linear layer."""
        return self._operations.Linear(in_width, out_width, bias=bias, **self._where)

    def conv(self, in_width: int, out_width: int, patch_size: int) -> nn.Module:
        """Convolution of patches side by side."""
        return self._operations.Conv2d(in_width, out_width, kernel_size=patch_size, stride=patch_size, **self._where)

    def norm(self, width: int, eps: float = 1e-5) -> nn.Module:
        """Layer norm."""
        return self._operations.LayerNorm(width, eps=eps, **self._where)

    def table(self, rows: int, width: int) -> nn.Module:
        """Learned table. ComfyUI can move and cast a layer, but not a bare parameter."""
        return self._operations.Embedding(rows, width, **self._where)


def relative_position_index(window: int, device: torch.device) -> Tensor:
    """Return the row of the position bias table for each pair of patches in a window: int [window**2, window**2]."""
    down, right = torch.meshgrid(
        torch.arange(window, device=device), torch.arange(window, device=device), indexing="ij"
    )
    down, right = down.flatten(), right.flatten()
    steps_down = down[:, None] - down[None, :] + window - 1
    steps_right = right[:, None] - right[None, :] + window - 1
    return steps_down * (2 * window - 1) + steps_right


def shift_mask(resolution: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the attention bias that separates patches which only the cyclic shift made neighbours.

    Returns:
        [windows, window**2, window**2]: 0 for two patches that are neighbours in the picture too, else -100
        as published.
    """
    position = torch.arange(resolution, device=device)
    strip = (position >= resolution - window).long() + (position >= resolution - shift).long()
    region = strip[:, None] * 3 + strip[None, :]
    region = rearrange(region, "(h p) (w q) -> (h w) (p q)", p=window, q=window)
    return (region[:, :, None] != region[:, None, :]) * -100.0


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head and relative position."""

    def __init__(self, width: int, heads: int, window: int, layers: Layers) -> None:
        """``width`` channels in ``heads`` heads, windows of ``window`` by ``window`` patches."""
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = layers.table((2 * window - 1) ** 2, heads)
        self.qkv = layers.linear(width, 3 * width)
        self.proj = layers.linear(width, width)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """[B, H, W, C] to the same; ``index`` [P, P] rows of the bias table; ``mask`` [windows, P, P]."""
        size = {"p": self.window, "q": self.window}
        q, k, v = rearrange(self.qkv(x), "b (h p) (w q) (k n d) -> k b (h w n) (p q) d", k=3, n=self.heads, **size)
        position = rearrange(self.relative_position_bias_table(index), "i j n -> n i j")
        bias = (mask[:, None].to(x.dtype) + position.to(x.dtype)).flatten(0, 1)
        x = rearrange(
            scaled_dot_product_attention(q, k, v, attn_mask=bias[None]),
            "b (h w n) (p q) d -> b (h p) (w q) (n d)",
            h=x.shape[1] // self.window,
            n=self.heads,
            **size,
        )
        return self.proj(x)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int, layers: Layers) -> None:
        """``width`` channels in and out, ``hidden`` between."""
        super().__init__()
        self.fc1 = layers.linear(width, hidden)
        self.fc2 = layers.linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        return self.fc2(gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Pre-norm attention over (shifted) windows, then an MLP, each with a residual."""

    def __init__(self, width: int, heads: int, window: int, shift: int, mlp_ratio: int, layers: Layers) -> None:
        """``shift`` in patches moves the windows up and left; 0 leaves them."""
        super().__init__()
        self.shift = shift
        self.norm1 = layers.norm(width)
        self.attn = WindowAttention(width, heads, window, layers)
        self.norm2 = layers.norm(width)
        self.mlp = Mlp(width, width * mlp_ratio, layers)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """[B, H, W, C] to the same."""
        attended = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        attended = self.attn(attended, index, mask)
        x = x + torch.roll(attended, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Each 2x2 patches become one of twice the channels."""

    def __init__(self, width: int, layers: Layers) -> None:
        """``width`` channels come in."""
        super().__init__()
        self.norm = layers.norm(4 * width)
        self.reduction = layers.linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, H/2, W/2, 2C]; the four patches are stacked column by column."""
        x = rearrange(x, "b (h p) (w q) c -> b h w (q p c)", p=2, q=2)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one with shifted windows."""

    def __init__(self, config: DapeConfig, stage: int, layers: Layers) -> None:
        """Stage number ``stage``, counted from 0."""
        super().__init__()
        width = config.width(stage)
        self.resolution = config.resolution(stage)
        self.window = config.window(stage)
        # Windows that fill the picture are not shifted.
        self.shift = self.window // 2 if self.window < self.resolution else 0
        self.blocks = nn.ModuleList(
            SwinBlock(width, config.num_heads[stage], self.window, self.shift * (i % 2), config.mlp_ratio, layers)
            for i in range(config.depths[stage])
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(width, layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to the next stage's [B, H/2, W/2, 2C], or to the same after the last one."""
        # Computed here, which is cheap: a buffer of a module built on the meta device would have no values.
        index = relative_position_index(self.window, x.device)
        masks = [shift_mask(self.resolution, self.window, shift, x.device) for shift in (0, self.shift)]
        for i, block in enumerate(self.blocks):
            x = block(x, index, masks[i % 2])
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Picture to normed patch tokens."""

    def __init__(self, patch_size: int, width: int, layers: Layers) -> None:
        """Patches of ``patch_size`` pixels a side become ``width`` channels."""
        super().__init__()
        self.proj = layers.conv(3, width, patch_size)
        self.norm = layers.norm(width)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, H/patch, W/patch, width]."""
        return self.norm(rearrange(self.proj(image), "b c h w -> b h w c"))


class Swin(nn.Module):
    """RAM's image encoder.

    Source: "Swin Transformer", arXiv 2103.14030; weights ``visual_encoder.*`` of ram_swin_large_14m.pth.
    """

    def __init__(self, config: DapeConfig, layers: Layers) -> None:
        """Build with the sizes of ``config``."""
        super().__init__()
        self.patch_embed = PatchEmbed(config.patch_size, config.embed_dim, layers)
        self.layers = nn.ModuleList(SwinStage(config, i, layers) for i in range(len(config.depths)))
        self.norm = layers.norm(config.out_width)

    def forward(self, image: Tensor) -> Tensor:
        """Image [B, 3, image_size, image_size], normalised, to tokens [B, 1 + patches, out_width].

        The first token is the mean of the others.
        """
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        x = self.norm(x).flatten(1, 2)
        return torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
