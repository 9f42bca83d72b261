"""BSRGAN's degradation, which shuffles its steps, and its mix with Real-ESRGAN's.

Source: BSRGAN, arXiv 2103.14006, and its published ``utils_blindsr.py``. Deviations: The noise of a camera's processing
is left out, since the published code runs without its model, too. JPEG is Pillow's. A blur has a sigma of 0.05 pixels
at least, where the published code may divide by zero, and a side never gets shorter than a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from .degrade import NO_BLUR, add_gaussian_noise, bell_kernel, blur, compress, round_to_8_bits, shrink
from .draws import Range, choose, draw_uniform, draw_whole, happens, interpolate_range, shuffled
from .resizing import FILTERS, halve_as_matlab, resize_as_opencv

GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the gray picture for Poisson noise."""


@dataclass(frozen=True)
class Steps:
    """The steps, with their ranges. ``sf`` is the factor by which the picture is still to be shrunk."""

    kernel_px: tuple[int, int] = (7, 25)
    isotropic_prob: float = 0.5
    variance: tuple[float, float] = (4.0, 1.0)
    """A blur that is not isotropic has variances up to the first plus ``sf`` times the second, along both axes."""
    sigma: tuple[float, float] = (2.0, 0.2)
    """An isotropic blur has a sigma up to the first plus ``sf`` times the second."""
    noise_level: tuple[int, int] = (2, 25)
    """Standard deviation of noise, whole numbers of 1/255."""
    correlated_level: float = 25
    """The same for noise whose colours are correlated."""
    noise_weights: tuple[float, float, float] = (0.4, 0.4, 0.2)
    """Probabilities of noise in every colour by itself, in all colours alike, and correlated."""
    quality: tuple[int, int] = (30, 95)
    """Of JPEG, whole numbers."""
    smooth_resize_prob: float = 0.0
    """Probability that a resize is antialiased. The published ones are not, but for some."""

    def milder(self, strength: float) -> Steps:
        """Return them with their ranges moved towards no degradation; see :func:`.degrade.degrade`."""
        lowest, highest = interpolate_range(100, self.quality, strength)
        least, most = (round(level * strength) for level in self.noise_level)
        return replace(
            self,
            variance=(self.variance[0] * strength, self.variance[1] * strength),
            sigma=(self.sigma[0] * strength, self.sigma[1] * strength),
            noise_level=(least, most),
            correlated_level=self.correlated_level * strength,
            quality=(round(lowest), round(highest)),
            smooth_resize_prob=1 + (self.smooth_resize_prob - 1) * strength,
        )

    def blur(self, picture: Tensor, sf: float, generator: Generator) -> Tensor:
        """Blur by a Gaussian of random size and shape."""
        isotropic = happens(self.isotropic_prob, generator)
        sides = (self.kernel_px[1] - self.kernel_px[0]) // 2 + 1
        kernel_px = self.kernel_px[0] + 2 * draw_whole((0, sides - 1), generator)
        if isotropic:
            sigma = max(NO_BLUR, draw_uniform((0, self.sigma[0] + self.sigma[1] * sf), generator))
            return blur(picture, bell_kernel(kernel_px, (sigma, sigma)), mirrored=True)
        largest = self.variance[0] + self.variance[1] * sf
        one, other = (max(NO_BLUR, math.sqrt(draw_uniform((0, largest), generator))) for _ in range(2))
        return blur(picture, bell_kernel(kernel_px, (one, other), draw_uniform((0, math.pi), generator)), mirrored=True)

    def resize(self, picture: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Resize with a random filter of OpenCV."""
        if happens(self.smooth_resize_prob, generator):
            return shrink(picture, size) if min(size) > 1 else resize_as_opencv(picture, size, "area")
        return resize_as_opencv(picture, size, FILTERS[choose([1] * len(FILTERS), generator)]).clamp(0, 1)

    def rescale(self, picture: Tensor, factor: float, generator: Generator) -> Tensor:
        """Resize by a factor, each side rounded down."""
        height, width = (max(1, int(factor * side)) for side in picture.shape[1:])
        return self.resize(picture, (height, width), generator)

    def noise(self, picture: Tensor, generator: Generator, speckle: bool = False) -> Tensor:
        """Add Gaussian noise of one of three kinds. Speckle is proportional to the picture's values."""
        level = draw_whole(self.noise_level, generator)
        kind = choose(self.noise_weights, generator)
        if kind < 2 and not speckle:
            return add_gaussian_noise(picture, level, kind == 1, generator)
        if kind < 2:
            noise = torch.randn(1 if kind else 3, *picture.shape[1:], generator=generator) * (level / 255)
        else:
            diagonal, random = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((3,), (3, 3)))
            covariance = correlated_covariance(diagonal, torch.linalg.svd(random).U, self.correlated_level)
            noise = draw_correlated(covariance, picture.shape[1:], generator)
        return (picture + (noise * picture if speckle else noise)).clamp(0, 1)

    def compress(self, picture: Tensor, generator: Generator) -> Tensor:
        """Compress as JPEG of a random quality."""
        return compress(picture, draw_whole(self.quality, generator))


@dataclass(frozen=True)
class Bsrgan(Steps):
    """Two blurs, two resizes, noise and JPEG in random order, then JPEG."""

    halve_prob: float = 0.25
    """Probability that the picture is halved first, if it is to be shrunk four times."""
    matlab_prob: float = 0.5
    """Probability that this is done as MATLAB does it."""
    shifted_prob: float = 0.25
    """Probability that the first of the two resizes picks pixels after a blur."""
    jpeg_prob: float = 0.9

    def milder(self, strength: float) -> Bsrgan:
        """See :meth:`Steps.milder`."""
        milder = super().milder(strength)
        assert isinstance(milder, Bsrgan)
        return replace(milder, shifted_prob=self.shifted_prob * strength, jpeg_prob=self.jpeg_prob * strength)

    def damage(self, picture: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Damage one picture [3, H, W] and shrink it to ``size``, height and width."""
        sf = picture.shape[1] // size[0]
        if sf == 4 and happens(self.halve_prob, generator):
            sf = 2
            if happens(self.matlab_prob, generator):
                picture = halve_as_matlab(picture).clamp(0, 1)
            else:
                picture = self.rescale(picture, 0.5, generator)
        for step in draw_order(generator):
            if step == "blur":
                picture = self.blur(picture, sf, generator)
            elif step == "shrink":
                picture = self._shrink_randomly(picture, sf, generator)
            elif step == "fit":
                picture = self.resize(picture, size, generator)
            elif step == "noise":
                picture = self.noise(picture, generator)
            elif happens(self.jpeg_prob, generator):
                picture = self.compress(picture, generator)
        return self.compress(picture, generator)

    def _shrink_randomly(self, picture: Tensor, sf: int, generator: Generator) -> Tensor:
        if not happens(self.shifted_prob, generator):
            return self.rescale(picture, 1 / draw_uniform((1, 2 * sf), generator), generator)
        sigma = draw_uniform((0.1, 0.6 * sf), generator)
        kernel = shift_kernel(bell_kernel(self.kernel_px[1], (sigma, sigma)), (sf - 1) / 2)
        return blur(picture, kernel, mirrored=True)[:, ::sf, ::sf].clamp(0, 1)


@dataclass(frozen=True)
class BsrganPlus(Steps):
    """BSRGAN's steps in the two rounds of Real-ESRGAN, half of the time in random order.

    The published code sharpens the clean picture first, as :func:`.degrade.sharpen` does.
    """

    shuffle_prob: float = 0.5
    """Probability of a random order of all steps. Otherwise only noise and JPEG change places within a round."""
    resize_weights: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of growing, shrinking and keeping the size."""
    growing: Range = (1, 2)
    shrinking: Range = (0.5, 1)
    """Factors; the lower end of shrinking is divided by ``sf``."""
    poisson_prob: float = 0.1
    speckle_prob: float = 0.1
    photons: Range = (2, 4)
    """Powers of ten: how many photons white has, for Poisson noise."""
    gray_poisson_prob: float = 0.5

    def milder(self, strength: float) -> BsrganPlus:
        """See :meth:`Steps.milder`."""
        milder = super().milder(strength)
        assert isinstance(milder, BsrganPlus)
        return replace(
            milder,
            growing=interpolate_range(1, self.growing, strength),
            shrinking=interpolate_range(1, self.shrinking, strength),
            poisson_prob=self.poisson_prob * strength,
            speckle_prob=self.speckle_prob * strength,
        )

    def damage(self, picture: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Damage one picture [3, H, W] and shrink it to ``size``, height and width."""
        sf = picture.shape[1] // size[0]
        for step in draw_order_plus(self.shuffle_prob, generator):
            if step == "blur":
                picture = self.blur(picture, sf, generator)
            elif step == "resize":
                ranges = (self.growing, (self.shrinking[0] / sf, self.shrinking[1]), (1, 1))
                factor = draw_uniform(ranges[choose(self.resize_weights, generator)], generator)
                picture = self.rescale(picture, factor, generator)
            elif step == "noise":
                picture = self.noise(picture, generator)
            elif step == "jpeg":
                picture = self.compress(picture, generator)
            elif step == "speckle" and happens(self.speckle_prob, generator):
                picture = self.noise(picture.clamp(0, 1), generator, speckle=True)
            elif step == "poisson" and happens(self.poisson_prob, generator):
                photons = 10 ** draw_uniform(self.photons, generator)
                picture = add_photon_noise(picture, photons, happens(self.gray_poisson_prob, generator), generator)
        return self.compress(self.resize(picture, size, generator), generator)


def draw_order(generator: Generator) -> list[str]:
    """Draw BSRGAN's order of steps. ``fit``, which gives the final size, comes after ``shrink``."""
    steps = ["blur", "blur", "shrink", "fit", "noise", "jpeg"]
    order = shuffled(steps, generator)
    first, second = sorted((order.index("shrink"), order.index("fit")))
    order[first], order[second] = "shrink", "fit"
    return order


def draw_order_plus(shuffle_prob: float, generator: Generator) -> list[str]:
    """Draw the order of the steps of :class:`BsrganPlus`."""
    noises = ["noise", "poisson", "speckle"]
    first, second = ["blur", "resize"], ["jpeg", "blur", "resize"]
    if happens(shuffle_prob, generator):
        return shuffled(first + noises + second + noises, generator)
    return first + shuffled(noises, generator) + second + shuffled(noises, generator)


def shift_kernel(kernel: Tensor, shift: float) -> Tensor:
    """Return a kernel [k, k] read ``shift`` pixels to the right and below, between pixels bilinearly; it sums to 1."""
    side = len(kernel)
    places = (torch.arange(side, dtype=torch.float64) + shift).clamp(0, side - 1)
    weights = (1 - (places[:, None] - torch.arange(side)).abs()).clamp_min(0).to(kernel.dtype)
    shifted = weights @ kernel @ weights.T
    return shifted / shifted.sum()


def correlated_covariance(diagonal: Tensor, basis: Tensor, level: float) -> Tensor:
    """Return the covariance [3, 3] of noise over the colours.

    Args:
        diagonal: [3] from 0 to 1.
        basis: [3, 3], orthonormal.
        level: Largest standard deviation, in steps of 1/255.
    """
    return ((level / 255) ** 2 * basis.T @ torch.diag(diagonal) @ basis).abs()


def draw_correlated(covariance: Tensor, size: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw noise [3, H, W] of a covariance [3, 3]. One that is not positive counts as NumPy takes it, by its SVD."""
    _, roots, basis = torch.linalg.svd(covariance)
    noise = torch.randn(3, math.prod(size), generator=generator)
    return ((roots.sqrt()[:, None] * basis).T.float() @ noise).reshape(3, *size)


def add_photon_noise(picture: Tensor, photons: float, gray: bool, generator: Generator) -> Tensor:
    """Count [3, H, W] in photons, of which white has ``photons``; with ``gray`` add the noise of the gray picture."""
    picture = round_to_8_bits(picture)
    if not gray:
        return (torch.poisson(picture * photons, generator=generator) / photons).clamp(0, 1)
    source = round_to_8_bits((picture * torch.tensor(GRAY).view(3, 1, 1)).sum(0, keepdim=True))
    return (picture + torch.poisson(source * photons, generator=generator) / photons - source).clamp(0, 1)
