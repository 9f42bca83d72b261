"""Upscale networks from before the GANs, as baselines: SRCNN, SRResNet and DASR.

Names of layers are those of the published files. SRResNet: BasicSR's MSRResNet, without norms. DASR: csjliang/DASR,
arXiv 2203.14672: a small network estimates the damage, and mixes five SRResNets into one by its estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, pixel_shuffle, relu

from .sizes import resize_bicubic

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Y of BT.601 as MATLAB computes it, without the constant 16 / 255: from 0 to 219 / 255."""
LUMA_OFFSET, LUMA_RANGE = 16 / 255, 219 / 255

DAMAGE_NUMBERS = 33
"""With so many numbers DASR describes the damage; see :func:`describe_damage`."""

_leaky = partial(leaky_relu, negative_slope=0.1)


class SRCNN(nn.Module):
    """Three convolutions over a picture that is enlarged already, arXiv 1501.00092.

    Args:
        channels: Colours: 3, or 1 for a network of Y.
        widths: Features after the first and after the second convolution; 64 and 32 as published.
        kernels: Sides of the three kernels, odd: 9, 1, 5 or 9, 5, 5.
        scale: Factor of the enlargement.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d

    def __init__(self, channels: int, widths: tuple[int, int], kernels: Sequence[int], scale: int) -> None:
        """Make the layers."""
        super().__init__()
        self.channels, self.scale = channels, scale
        sizes = ((channels, widths[0]), widths, (widths[1], channels))
        for number, ((inputs, outputs), kernel) in enumerate(zip(sizes, kernels, strict=True), 1):
            setattr(self, f"conv{number}", nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))

    def refine(self, enlarged: Tensor) -> Tensor:
        """Return what the network makes of an enlarged picture, both [B, channels, H, W]."""
        refined: Tensor = self.conv3(relu(self.conv2(relu(self.conv1(enlarged)))))
        return refined

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge [B, 3, h, w] to [B, 3, scale h, scale w]. A network of Y leaves Cb and Cr as they are."""
        enlarged = resize_bicubic(image, image.shape[3] * self.scale, image.shape[2] * self.scale)
        if self.channels == 3:
            return self.refine(enlarged)
        luma = LUMA_OFFSET + torch.tensordot(enlarged.movedim(1, -1), enlarged.new_tensor(LUMA), 1).unsqueeze(1)
        return enlarged + (self.refine(luma) - luma) / LUMA_RANGE


class _Convolution(nn.Module):
    """A convolution of 3x3, or a mixture of several."""

    def __init__(self, inputs: int, outputs: int, experts: int | None) -> None:
        super().__init__()
        several = () if experts is None else (experts,)
        self.weight = nn.Parameter(torch.zeros(*several, outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(*several, outputs))

    def forward(self, x: Tensor, mix: Tensor | None) -> Tensor:
        if mix is None:
            return conv2d(x, self.weight, self.bias, padding=1)
        weight = torch.einsum("bk,koihw->boihw", mix, self.weight).flatten(0, 1)
        mixed = conv2d(x.flatten(0, 1)[None], weight, (mix @ self.bias).flatten(), padding=1, groups=len(x))
        return mixed.unflatten(1, (len(x), -1))[0]


class _Residual(nn.Module):
    def __init__(self, width: int, experts: int | None) -> None:
        super().__init__()
        self.conv1 = _Convolution(width, width, experts)
        self.conv2 = _Convolution(width, width, experts)

    def forward(self, x: Tensor, mix: Tensor | None) -> Tensor:
        return x + self.conv2(relu(self.conv1(x, mix)), mix)


class SRResNet(nn.Module):
    """Residual blocks, enlargement by pixel shuffle, and the bilinearly enlarged picture added.

    Args:
        width: Features, 64 as published.
        blocks: Residual blocks, 16 as published.
        scale: 2, 3 or 4.
        experts: For DASR, how many networks are mixed.
    """

    def __init__(self, width: int, blocks: int, scale: int, experts: int | None = None) -> None:
        """Make the layers, with weights of zero."""
        super().__init__()
        self.scale, self.experts = scale, experts
        convolution = partial(_Convolution, experts=experts)
        self.conv_first = convolution(3, width)
        self.body = nn.ModuleList(_Residual(width, experts) for _ in range(blocks))
        if scale == 4:
            self.upconv1, self.upconv2 = convolution(width, 4 * width), convolution(width, 4 * width)
        else:
            self.upconv1 = convolution(width, scale**2 * width)
        self.conv_hr, self.conv_last = convolution(width, width), convolution(width, 3)

    def forward(self, image: Tensor, mix: Tensor | None = None) -> Tensor:
        """Enlarge [B, 3, h, w] to [B, 3, scale h, scale w]. ``mix`` [B, experts] are the experts' shares."""
        x = _leaky(self.conv_first(image, mix))
        for block in self.body:
            x = block(x, mix)
        for upconv in (self.upconv1, self.upconv2) if self.scale == 4 else (self.upconv1,):
            x = _leaky(pixel_shuffle(upconv(x, mix), 2 if self.scale == 4 else self.scale))
        x = self.conv_last(_leaky(self.conv_hr(x, mix)), mix)
        return x + interpolate(image, scale_factor=self.scale, mode="bilinear", align_corners=False)


class DamageEstimator(nn.Module):
    """DASR's net_p.

    Args:
        width: Features, 64 as published.
        hidden: Features between the numbers and the shares, 15 as published.
        experts: How many networks are mixed, 5 as published.
    """

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        """Make the layers."""
        super().__init__()
        self.experts = experts
        sizes = [3, *[width] * 5, DAMAGE_NUMBERS]
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise(sizes)):
            layers += [nn.Conv2d(inputs, outputs, 5, stride=2 if number == 3 else 1, padding=2), nn.LeakyReLU(0.2)]
        self.ConvNet = nn.Sequential(*layers)
        self.MappingNet = nn.Sequential(nn.Linear(DAMAGE_NUMBERS, hidden), nn.Linear(hidden, experts))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers [B, 33] that describe the damage of [B, 3, h, w], and the experts' shares [B, 5]."""
        numbers = self.ConvNet(image).mean((2, 3))
        return numbers, self.MappingNet(numbers)


class DASR(nn.Module):
    """Both networks of DASR."""

    def __init__(self, net_p: DamageEstimator, net_g: SRResNet) -> None:
        """Join them."""
        super().__init__()
        self.net_p, self.net_g = net_p, net_g

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge [B, 3, h, w] four times."""
        return self.net_g(image, self.net_p(image)[1])


def describe_damage(numbers: Tensor, shares: Tensor) -> str:
    """Return DASR's estimate in words, one line for each picture.

    DASR estimates where each setting lies in the range of its training, 0 to 1. As each of its three classes of damage
    has ranges of its own, the numbers cannot be turned into pixels or qualities.

    Args:
        numbers: [B, 33]. Blur: of the first round at 1 and 2, of the second at 5 and 6. Noise: at 18 and 22. JPEG
            quality: at 26 and 27.
        shares: [B, experts].
    """
    lines = []
    for picture, mix in zip(numbers.tolist(), shares.tolist(), strict=True):
        pairs = {
            "blur": (sum(picture[1:3]) / 2, sum(picture[5:7]) / 2),
            "noise": (picture[18], picture[22]),
            "JPEG quality": (picture[26], picture[27]),
        }
        estimate = ", ".join(f"{name} {first:.2f} and {second:.2f}" for name, (first, second) in pairs.items())
        lines.append(f"{estimate}; shares {' '.join(f'{share:.2f}' for share in mix)}")
    return "\n".join(lines)
