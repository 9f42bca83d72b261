"""Fidelity: what a model predicts is drawn towards the photo in the low frequencies.

DDNM and DDRM know how the photo was damaged. What the damage A has kept of the photo y goes into each prediction x0:
x0 + A⁺(y - A x0). If A shrinks by averaging, A⁺A is a low pass. Here the damage is unknown, but JPEG blocks and noise
are fine, so the photo can be trusted in its coarse parts. A low pass L puts them into each prediction: x0 + L(y - x0).

Sources: DDNM, arXiv 2212.00490, equation 17, and DDRM, arXiv 2201.11793. Deviations: the low pass, and that the latent
takes the place of the picture. That is exact for a linear VAE and an approximation for Stable Diffusion's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LowPass = Callable[[Tensor], Tensor]


def draw_towards(predicted: Tensor, photo: Tensor, low_pass: LowPass, strength: float | Tensor) -> Tensor:
    """Return the prediction with its low frequencies drawn towards the photo's.

    Args:
        predicted: x0 [B, C, h, w], as the model predicts it.
        photo: [B, C, h, w], at the scale of x0.
        low_pass: What the photo is trusted in; keeps constants.
        strength: 0 keeps the prediction, 1 takes the photo's low frequencies. A weight for each cell: [B, 1, h, w].
    """
    return predicted + strength * low_pass(photo - predicted)
