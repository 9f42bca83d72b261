"""Fidelity: what a model predicts is drawn towards the photo in the low frequencies.

DDNM and DDRM know how the photo was damaged. What the damage A has kept of the photo y goes into each prediction x0:
x0 + A⁺(y - A x0). If A shrinks by averaging, A⁺A is a low pass. Here the damage is unknown, but JPEG blocks and noise
are fine, so the photo can be trusted in its coarse parts. A low pass L puts them into each prediction: x0 + L(y - x0).

Sources: DDNM, arXiv 2212.00490, equation 17, and DDRM, arXiv 2201.11793. Deviations: the low pass, and that the latent
takes the place of the picture. That is exact for a linear VAE and an approximation for Stable Diffusion's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

LowPass = Callable[[Tensor], Tensor]

_GRAY = (0.299, 0.587, 0.114)
_SOBEL = ((-1.0, -2.0, -1.0), (0.0, 0.0, 0.0), (1.0, 2.0, 1.0))


def draw_towards(predicted: Tensor, photo: Tensor, low_pass: LowPass, strength: float | Tensor) -> Tensor:
    """Return the prediction with its low frequencies drawn towards the photo's.

    Args:
        predicted: x0 [B, C, h, w], as the model predicts it.
        photo: [B, C, h, w], at the scale of x0.
        low_pass: What the photo is trusted in; keeps constants.
        strength: 0 keeps the prediction, 1 takes the photo's low frequencies. A weight for each cell: [B, 1, h, w].
    """
    return predicted + strength * low_pass(photo - predicted)


def find_flat_regions(image: Tensor, sensitivity: float = 1.0) -> Tensor:
    """Return where a picture is flat: 1 where it has no edges, near 0 on strong ones, in blocks of 2x2 pixels.

    Args:
        image: [B, 3, H, W] in [0, 1].
        sensitivity: Scales the gradients; more takes weaker edges for edges.

    Returns:
        [B, 1, H, W], 0 to 1.

    Source: the weight of DiffBIR's restoration guidance, 1 - tanh of the summed Sobel magnitudes of a block.
    Deviations: the edge pixel goes on outside, and blocks of odd sides are filled up.
    """
    height, width = image.shape[2:]
    gray = 2 * torch.einsum("bchw,c->bhw", image, image.new_tensor(_GRAY)).unsqueeze(1) - 1
    down = image.new_tensor(_SOBEL)
    gradients = conv2d(pad(gray, [1] * 4, mode="replicate"), torch.stack([down, down.T]).unsqueeze(1))
    strength = pad(gradients.norm(dim=1, keepdim=True), [0, width % 2, 0, height % 2], mode="replicate")
    flat = 1 - torch.tanh(sensitivity * 4 * avg_pool2d(strength, 2))
    return interpolate(flat, scale_factor=2, mode="nearest")[..., :height, :width]
