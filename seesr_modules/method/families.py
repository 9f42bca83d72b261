"""The families of damage: Real-ESRGAN's in SeeSR's ranges, BSRGAN's two, and DASR's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Generator, Tensor

from ..config import DAMAGES
from .bsrgan import Bsrgan, BsrganPlus
from .degrade import PUBLISHED, Degradation, Family, Stage
from .draws import choose


@dataclass(frozen=True)
class Mixture:
    """Several degradations, of which each picture gets one."""

    parts: tuple[tuple[float, Family], ...]
    """Probability and kind of damage."""

    def milder(self, strength: float) -> Mixture:
        """Return it with milder parts; see :func:`.degrade.degrade`."""
        return Mixture(tuple((weight, part.milder(strength)) for weight, part in self.parts))

    def damage(self, picture: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Damage one picture [3, H, W] and shrink it to ``size``, height and width."""
        weights = [weight for weight, _ in self.parts]
        return self.parts[choose(weights, generator)][1].damage(picture, size, generator)


_GAUSSIANS = (("gaussian", True, 0.65), ("gaussian", False, 0.35))
_WEAK = Stage(
    kernel_px=21,
    blur_prob=1.0,
    blur_sigma=(0.2, 0.8),
    resize_weights=(0.1, 0.2, 0.7),
    resize=(0.85, 1.2),
    gaussian_sigma=(1, 10),
    poisson_scale=(0.05, 0.5),
    sinc_prob=0.0,
    jpeg_quality=(90, 95),
    kernels=_GAUSSIANS,
)
_STANDARD = replace(
    _WEAK,
    blur_sigma=(0.2, 1.5),
    resize_weights=(0.3, 0.4, 0.3),
    resize=(0.5, 1.2),
    gaussian_sigma=(1, 20),
    poisson_scale=(0.05, 1.5),
    jpeg_quality=(50, 95),
)
_FIRST, _SECOND = PUBLISHED.first, PUBLISHED.second
assert _SECOND is not None
_SEVERE = Degradation(
    first=replace(_FIRST, sinc_prob=0.0, kernels=_GAUSSIANS),
    second=replace(_SECOND, sinc_prob=0.0, kernels=_GAUSSIANS, kernel_px=21),
)
DASR = Mixture(((0.3, Degradation(_WEAK, None)), (0.3, Degradation(_STANDARD, None)), (0.4, _SEVERE)))
"""DASR's weak, standard and severe damage, arXiv 2203.14672; ranges of its published ``train_DASR.yml``.

Each picture draws its class by itself. The published training draws one for each batch.
"""

FAMILIES: dict[str, Family] = dict(zip(DAMAGES, (PUBLISHED, Bsrgan(), BsrganPlus(), DASR), strict=True))
"""Name -> family; the first is SeeSR's."""

ANY = Mixture(((0.7, PUBLISHED), (0.1, FAMILIES["bsrgan"]), (0.1, FAMILIES["bsrgan_plus"]), (0.1, DASR)))
"""All of them, SeeSR's most often."""
