"""Degrades clean pictures as in SeeSR's training, by the two stages of Real-ESRGAN.

Other families of damage are in ``families.py``; :func:`degrade` takes any of them.

Pictures are processed one by one on the CPU, so that each gets its own random draws.

Source: Real-ESRGAN, arXiv 2107.10833, and its published ``realesrgan_dataset.py`` and ``realesrnet_model.py``;
ranges of the published SeeSR. Deviations: Edges are replicated, not mirrored, so that small pictures work. Resizes use
the two sizes, so that the result covers the picture to its last pixel. JPEG comes from a real encoder, at whole
qualities. The second stage's kernels have at most 11 pixels, where SeeSR's code draws up to 21.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image  # torchvision's JPEG takes tensors, but is to be removed
from torch import Generator, Tensor
from torch.nn.functional import interpolate, pad

from ..errors import SeeSRError
from .draws import Range, choose, draw_uniform, happens, interpolate_range
from .sizes import resize_bicubic

KERNELS = (
    ("gaussian", True, 0.45),
    ("gaussian", False, 0.25),
    ("generalized", True, 0.12),
    ("generalized", False, 0.03),
    ("plateau", True, 0.12),
    ("plateau", False, 0.03),
)
"""Bell-shaped blur kernels: profile, isotropic or not, probability."""

SHAPES: dict[str, Range] = {"gaussian": (1.0, 1.0), "generalized": (0.5, 4.0), "plateau": (1.0, 2.0)}
"""Range of each profile's exponent beta. Values below and above 1 are equally frequent."""

SMALLEST_KERNEL_PX = 7
NO_BLUR = 0.05
"""Sigma in pixels of a blur without visible effect."""
FILTERS = ("area", "bilinear", "bicubic")
GRAY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the gray picture for Poisson noise."""


@dataclass(frozen=True)
class Stage:
    """One stage of degradation: blur, resize, noise, JPEG."""

    kernel_px: int
    """Side of the largest blur kernel. The smallest has 7 pixels; all sides are odd."""
    blur_prob: float
    blur_sigma: Range
    """Sigma of the blur in pixels, along each of its axes."""
    resize_weights: tuple[float, float, float]
    """Probabilities of growing, shrinking and keeping the size."""
    resize: Range
    """Smallest and largest factor."""
    gaussian_sigma: Range
    """Sigma of Gaussian noise, in steps of 1/255."""
    poisson_scale: Range
    """Factor on the Poisson noise of a picture with as many photons as it has levels."""
    sinc_prob: float = 0.1
    """Probability that a blur is a ringing low pass, not a bell."""
    gaussian_prob: float = 0.5
    """Probability that noise is Gaussian, not Poisson."""
    gray_prob: float = 0.4
    """Probability that noise is the same in all channels."""
    jpeg_quality: Range = (30, 95)
    kernels: tuple[tuple[str, bool, float], ...] | None = None
    """Kinds of bell-shaped kernels, as in ``KERNELS``, which None stands for."""

    def milder(self, strength: float) -> Stage:
        """Return the stage with its ranges moved towards no degradation; see :func:`degrade`."""
        return replace(
            self,
            blur_sigma=interpolate_range(NO_BLUR, self.blur_sigma, strength),
            resize=interpolate_range(1, self.resize, strength),
            gaussian_sigma=interpolate_range(0, self.gaussian_sigma, strength),
            poisson_scale=interpolate_range(0, self.poisson_scale, strength),
            sinc_prob=self.sinc_prob * strength,
            jpeg_quality=interpolate_range(100, self.jpeg_quality, strength),
        )


Self = TypeVar("Self")


class Family(Protocol):
    """A kind of damage, with its ranges."""

    def milder(self: Self, strength: float) -> Self:
        """Return it with its ranges moved towards no degradation; see :func:`degrade`."""
        ...

    def damage(self, picture: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Damage one picture [3, H, W] and shrink it to ``size``, height and width."""
        ...


@dataclass(frozen=True)
class Degradation:
    """Both stages, and the final low pass. Without a second stage there is no final low pass either."""

    first: Stage
    second: Stage | None
    final_sinc_prob: float = 0.8
    """Probability of one more ringing low pass on the small picture."""
    final_kernel_px: int = 21
    smooth_resize_prob: float = 0.0
    """Probability that a resize is antialiased. The published resizes never are."""

    def milder(self, strength: float) -> Degradation:
        """Return the degradation with its ranges moved towards no degradation; see :func:`degrade`."""
        return replace(
            self,
            first=self.first.milder(strength),
            second=self.second.milder(strength) if self.second else None,
            final_sinc_prob=self.final_sinc_prob * strength,
            smooth_resize_prob=1 + (self.smooth_resize_prob - 1) * strength,
        )

    def damage(self, picture: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Damage one picture [3, H, W] and shrink it to ``size``, height and width."""
        height, width = picture.shape[1:]
        first, second, smooth = self.first, self.second, self.smooth_resize_prob
        picture = _blur_randomly(picture, first, generator)
        picture = _rescale(picture, (height, width), first, smooth, generator)
        picture = _add_noise(picture, first, generator)
        picture = _compress_randomly(picture, first, generator)
        if second is None:
            return _resize_to(picture, size, smooth, generator)
        picture = _blur_randomly(picture, second, generator)
        picture = _rescale(picture, size, second, smooth, generator)
        picture = _add_noise(picture, second, generator)
        compress_first = happens(0.5, generator)
        if compress_first:
            picture = _compress_randomly(picture, second, generator)
        picture = _resize_to(picture, size, smooth, generator)
        if happens(self.final_sinc_prob, generator):
            kernel_px = _kernel_px(self.final_kernel_px, generator)
            picture = blur(picture, sinc_kernel(kernel_px, draw_uniform((math.pi / 3, math.pi), generator)))
        if not compress_first:
            picture = _compress_randomly(picture, second, generator)
        return picture


PUBLISHED = Degradation(
    first=Stage(
        kernel_px=21,
        blur_prob=1.0,
        blur_sigma=(0.2, 3),
        resize_weights=(0.2, 0.7, 0.1),
        resize=(0.15, 1.5),
        gaussian_sigma=(1, 30),
        poisson_scale=(0.05, 3),
    ),
    second=Stage(
        kernel_px=11,
        blur_prob=0.8,
        blur_sigma=(0.2, 1.5),
        resize_weights=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        gaussian_sigma=(1, 25),
        poisson_scale=(0.05, 2.5),
    ),
)
"""Real-ESRGAN's degradation in SeeSR's ranges."""


def degrade(
    images: Tensor,
    generator: Generator,
    degradation: Family = PUBLISHED,
    scale: int = 4,
    strength: float = 1.0,
) -> Tensor:
    """Degrade pictures and shrink them. Each picture gets its own random draws.

    For training pairs, :func:`sharpen` may sharpen the clean pictures first, which are also the targets.

    Args:
        images: [B, 3, H, W] clean pictures, RGB in [0, 1]; the sides are multiples of ``scale``.
        generator: On the CPU. It gives one seed per picture, so a picture's draws do not depend on the batch size.
        degradation: The kind of damage and the ranges to draw from.
        scale: How many times smaller the result is, a whole number from 1.
        strength: 1 draws from the given ranges, lower values from ranges closer to no degradation. 0 only shrinks the
            pictures (antialiased bicubic).

    Returns:
        [B, 3, H / scale, W / scale], float32 in [0, 1], rounded to 8 bits, on the images' device.

    Raises:
        SeeSRError: The images are not RGB pictures, their sides are not divisible by the scale, or a value is out of
            range.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or 0 in images.shape:
        raise SeeSRError(
            f"images: {list(images.shape)} {str(images.dtype).removeprefix('torch.')}: "
            "give RGB pictures [batch, 3, height, width] as floats from 0 to 1."
        )
    return torch.stack([degrade_one(image, _spawn(generator), degradation, scale, strength) for image in images])


def degrade_one(
    image: Tensor,
    generator: Generator,
    degradation: Family = PUBLISHED,
    scale: int = 4,
    strength: float = 1.0,
) -> Tensor:
    """Degrade one picture [3, H, W] with draws directly from ``generator``; see :func:`degrade`."""
    height, width = image.shape[1:]
    if scale < 1 or height % scale or width % scale or min(height, width) < 2 * scale:
        raise SeeSRError(
            f"scale: {scale} for a picture of {width}x{height} pixels: the sides must be multiples of the scale, "
            "twice the scale at least; crop the picture or choose another scale."
        )
    if not 0 <= strength <= 1:
        raise SeeSRError(f"strength: {strength}: give a number from 0 (no damage) to 1 (as published).")
    size = (height // scale, width // scale)
    picture = image.detach().to("cpu", torch.float32).clamp(0, 1)
    if strength == 0:
        return round_to_8_bits(shrink(picture, size)).to(image.device)

    picture = degradation.milder(strength).damage(picture, size, generator)
    return round_to_8_bits(picture).to(image.device)


def sharpen(images: Tensor, weight: float = 0.5, kernel_px: int = 51, threshold: float = 10) -> Tensor:
    """Sharpen by unsharp masking, as for the clean pictures of the training pairs.

    Args:
        images: [..., 3, H, W] in [0, 1].
        weight: Share of the detail to add.
        kernel_px: Side of the Gaussian that separates the detail, odd; its sigma follows as in OpenCV.
        threshold: Detail below this, in steps of 1/255, is not sharpened. The border of the sharpened area is softened.

    Returns:
        [..., 3, H, W], in [0, 1].

    Source: Real-ESRGAN, ``USMSharp`` (its radius of 50 is a kernel of 51 pixels).
    """
    sigma = 0.3 * ((kernel_px - 1) / 2 - 1) + 0.8
    kernel = bell_kernel(kernel_px, (sigma, sigma))
    detail = images - blur(images, kernel)
    mask = blur((detail.abs() * 255 > threshold).to(images.dtype), kernel)
    return torch.lerp(images, (images + weight * detail).clamp(0, 1), mask.clamp(0, 1))


def bell_kernel(kernel_px: int, sigmas: Range, angle: float = 0.0, beta: float = 1.0, plateau: bool = False) -> Tensor:
    """Return a bell-shaped blur kernel [kernel_px, kernel_px] that sums to 1.

    Args:
        kernel_px: Side in pixels, odd.
        sigmas: Sigma along the kernel's two axes, in pixels.
        angle: Angle from the x axis to the first axis, in radians.
        beta: 1 for a Gaussian. Lower values give a sharper peak and wider tails, higher values a flatter top.
        plateau: Use the profile 1 / (1 + r^(2 beta)) instead of exp(-r^(2 beta) / 2).
    """
    y, x = _grid(kernel_px)
    along = (x * math.cos(angle) + y * math.sin(angle)) / sigmas[0]
    across = (y * math.cos(angle) - x * math.sin(angle)) / sigmas[1]
    radius = (along**2 + across**2) ** beta
    kernel = 1 / (1 + radius) if plateau else torch.exp(-radius / 2)
    return (kernel / kernel.sum()).float()


def sinc_kernel(kernel_px: int, cutoff: float) -> Tensor:
    """Return a circular low pass [kernel_px, kernel_px] that sums to 1 and rings.

    Args:
        kernel_px: Side in pixels, odd.
        cutoff: Highest angular frequency that passes, in radians per pixel, at most pi.
    """
    y, x = _grid(kernel_px)
    radius = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[kernel_px // 2, kernel_px // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def blur(images: Tensor, kernel: Tensor, mirrored: bool = False) -> Tensor:
    """Convolve [..., 3, H, W] with a kernel [k, k], k odd.

    On a CPU the Fourier transform takes a sixth of the time of a convolution with 21 pixels.

    Args:
        images: Any pictures.
        kernel: The kernel, which a convolution turns by 180 degrees.
        mirrored: Mirror the edges, without repeating the last pixel, instead of replicating them.
    """
    height, width = images.shape[-2:]
    margin = kernel.shape[-1] // 2
    flat = images.flatten(0, -3).unsqueeze(0)
    padded = _mirror(flat, margin) if mirrored else pad(flat, [margin] * 4, mode="replicate")
    # Fourier transforms are fast for sides with small factors.
    size = [-(-side // 32) * 32 for side in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernel, s=size)
    result = torch.fft.irfft2(spectrum, s=size)[..., 2 * margin :, 2 * margin :]
    return result[..., :height, :width].reshape(images.shape)


def add_gaussian_noise(picture: Tensor, sigma: float, gray: bool, generator: Generator) -> Tensor:
    """Add noise with standard deviation ``sigma`` / 255 to [3, H, W]; with ``gray`` the same in all channels."""
    channels = 1 if gray else 3
    noise = torch.randn(channels, *picture.shape[1:], generator=generator)
    return (picture + noise * (sigma / 255)).clamp(0, 1)


def add_poisson_noise(picture: Tensor, scale: float, gray: bool, generator: Generator) -> Tensor:
    """Add noise with variance ``scale``^2 * value / levels to [3, H, W], in [0, 1].

    ``levels`` is the number of different 8-bit values in the picture, rounded up to a power of two. With ``gray``, all
    channels get the noise of the gray picture.
    """
    source = (picture * torch.tensor(GRAY).view(3, 1, 1)).sum(0, keepdim=True) if gray else picture
    source = round_to_8_bits(source)
    different = int(torch.bincount((source * 255).round().int().flatten()).count_nonzero())
    levels = 2 ** math.ceil(math.log2(different))
    noise = torch.poisson(source * levels, generator=generator) / levels - source
    return (picture + noise * scale).clamp(0, 1)


def compress(picture: Tensor, quality: int) -> Tensor:
    """Compress [3, H, W], in [0, 1], as JPEG of a quality from 1 to 100, and decode it."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1)
    with io.BytesIO() as file:
        Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as damaged:
            return torch.from_numpy(np.array(damaged)).movedim(-1, 0).float() / 255


def draw_kernel(stage: Stage, generator: Generator) -> Tensor:
    """Draw a blur kernel [k, k]: its size, its kind and its parameters."""
    kernel_px = _kernel_px(stage.kernel_px, generator)
    if happens(stage.sinc_prob, generator):
        lowest = math.pi / 3 if kernel_px < 13 else math.pi / 5
        return sinc_kernel(kernel_px, draw_uniform((lowest, math.pi), generator))
    kernels = stage.kernels or KERNELS
    profile, isotropic, _ = kernels[choose([weight for *_, weight in kernels], generator)]
    sigma, angle = draw_uniform(stage.blur_sigma, generator), 0.0
    sigmas = (sigma, sigma)
    if not isotropic:
        sigmas = (sigma, draw_uniform(stage.blur_sigma, generator))
        angle = draw_uniform((-math.pi, math.pi), generator)
    least, greatest = SHAPES[profile]
    beta = draw_uniform((least, 1) if happens(0.5, generator) else (1, greatest), generator)
    return bell_kernel(kernel_px, sigmas, angle, beta, plateau=profile == "plateau")


def draw_resize(stage: Stage, generator: Generator) -> float:
    """Draw the factor of a stage's resize."""
    shrinking, growing = stage.resize
    ranges = ((1, growing), (shrinking, 1), (1, 1))
    return draw_uniform(ranges[choose(stage.resize_weights, generator)], generator)


def _blur_randomly(picture: Tensor, stage: Stage, generator: Generator) -> Tensor:
    return blur(picture, draw_kernel(stage, generator)) if happens(stage.blur_prob, generator) else picture


def _rescale(picture: Tensor, base: tuple[int, int], stage: Stage, smooth: float, generator: Generator) -> Tensor:
    factor = draw_resize(stage, generator)
    height, width = (max(2, int(side * factor)) for side in base)
    return _resize_to(picture, (height, width), smooth, generator)


def _resize_to(picture: Tensor, size: tuple[int, int], smooth: float, generator: Generator) -> Tensor:
    if happens(smooth, generator):
        return shrink(picture, size)
    mode = FILTERS[choose([1] * len(FILTERS), generator)]
    return interpolate(picture.unsqueeze(0), size, mode=mode).squeeze(0)


def _add_noise(picture: Tensor, stage: Stage, generator: Generator) -> Tensor:
    picture = picture.clamp(0, 1)  # bicubic overshoots
    gray = happens(stage.gray_prob, generator)
    if happens(stage.gaussian_prob, generator):
        return add_gaussian_noise(picture, draw_uniform(stage.gaussian_sigma, generator), gray, generator)
    return add_poisson_noise(picture, draw_uniform(stage.poisson_scale, generator), gray, generator)


def _compress_randomly(picture: Tensor, stage: Stage, generator: Generator) -> Tensor:
    return compress(picture, round(draw_uniform(stage.jpeg_quality, generator)))


def shrink(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [C, H, W] with the antialiased bicubic filter to ``size``, height and width."""
    return resize_bicubic(picture.unsqueeze(0), size[1], size[0]).squeeze(0)


def round_to_8_bits(picture: Tensor) -> Tensor:
    """Round to steps of 1/255, in [0, 1]."""
    return (picture * 255).round().clamp(0, 255) / 255


def _mirror(pictures: Tensor, margin: int) -> Tensor:
    """Pad [..., H, W] by its mirror image, again and again where the margin is wider than the picture."""
    for axis in (-1, -2):
        last = pictures.shape[axis] - 1
        places = torch.arange(-margin, last + margin + 1).abs() % max(1, 2 * last)
        pictures = pictures.index_select(axis, torch.where(places > last, 2 * last - places, places))
    return pictures


def _grid(kernel_px: int) -> tuple[Tensor, Tensor]:
    line = torch.arange(kernel_px, dtype=torch.float64) - kernel_px // 2
    return line.unsqueeze(1), line.unsqueeze(0)


def _spawn(generator: Generator) -> Generator:
    seed = torch.randint(2**63 - 1, (), generator=generator)
    return Generator().manual_seed(int(seed))


def _kernel_px(largest: int, generator: Generator) -> int:
    return SMALLEST_KERNEL_PX + 2 * int(torch.randint((largest - SMALLEST_KERNEL_PX) // 2 + 1, (), generator=generator))
