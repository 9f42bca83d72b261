"""Back-projection on photographs: what the photo shows comes back, what is finer stays."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.back_projection import back_project
from seesr_pack.seesr_modules.method.filters import blur_gaussian
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from skimage import data
from torch import Tensor


def photograph(name: str) -> Tensor:
    """Return a photograph of scikit-image [1, 3, 256, 256] in [0, 1]."""
    picture = torch.from_numpy(getattr(data, name)()).float().div(255)
    picture = picture[..., None].expand(-1, -1, 3) if picture.ndim == 2 else picture
    return picture[:256, :256].movedim(-1, 0)[None].contiguous()


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean()))


@pytest.mark.parametrize("name", ["grass", "gravel", "astronaut"])
def test_smeared_texture_comes_back(name: str) -> None:
    """A blurred result becomes at least as true as the plain enlargement."""
    truth = photograph(name)
    photo = resize_bicubic(truth, 64, 64)
    plain, smeared = resize_bicubic(photo, 256, 256), blur_gaussian(truth, sigma=6.0)
    assert psnr(smeared, truth) < psnr(plain, truth)
    restored = back_project(smeared, photo, 1.0)
    assert psnr(restored, truth) > psnr(plain, truth)
    # Two passes leave less than a fifth of the difference from the photo (15 dB), and more where white is clamped.
    assert psnr(resize_bicubic(restored, 64, 64), photo) > psnr(resize_bicubic(smeared, 64, 64), photo) + 15


def test_finer_detail_stays() -> None:
    """A result that agrees with the photo is left as it is."""
    truth = photograph("astronaut") * 0.8 + 0.1
    photo = resize_bicubic(truth, 64, 64)
    assert torch.allclose(back_project(truth, photo, 1.0), truth, atol=1e-5)


def test_strength_adds_a_share() -> None:
    """Each pass takes away the strength's share of the difference from the photo."""
    photo, result = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 32, 32), 0.3)
    for strength in (0.0, 0.25, 1.0):
        left = 0.2 * (1 - strength) ** 2
        assert torch.allclose(back_project(result, photo, strength), torch.tensor(0.5 - left), atol=1e-5)


@pytest.mark.parametrize("size", [(101, 77), (64, 64), (40, 40), (520, 392), (65, 62)])
def test_results_of_any_size(size: tuple[int, int]) -> None:
    """Fractional factors, none, results smaller than the photo, and sides rounded to the latent's cells."""
    photo = resize_bicubic(photograph("coffee"), 64, round(64 * size[0] / size[1]))
    flat = torch.full((1, 3, *size), 0.5)
    restored = back_project(flat, photo, 1.0)
    assert restored.shape == flat.shape
    plain = resize_bicubic(photo, size[1], size[0])
    assert psnr(restored, plain) > psnr(flat, plain) + 10


def test_each_picture_of_a_batch_has_its_photo() -> None:
    """One photo serves all results; as many photos as results go with one each. Gray stays gray."""
    photos = torch.cat([resize_bicubic(photograph(name), 64, 64) for name in ("gravel", "grass")])
    results = torch.full((2, 3, 128, 128), 0.5)
    both = back_project(results, photos, 1.0)
    for number in range(2):
        one = slice(number, number + 1)
        assert torch.allclose(both[one], back_project(results[one], photos[one], 1.0), atol=1e-6)
    assert torch.allclose(back_project(results, photos[:1], 1.0), both[:1].expand(2, -1, -1, -1), atol=1e-6)
    assert torch.equal(both[:, 0], both[:, 1]) and torch.equal(both[:, 0], both[:, 2])


def test_bad_photos_are_refused() -> None:
    """A wrong number of photos and a cropped photo get a sentence each."""
    results = torch.rand(2, 3, 128, 128)
    with pytest.raises(SeeSRError, match="'photo' holds 3 pictures and 'image' 2"):
        back_project(results, torch.rand(3, 3, 32, 32), 1.0)
    with pytest.raises(SeeSRError, match=r"'image' \(128x128 pixels\) and 'photo' \(32x20\) have different prop"):
        back_project(results, torch.rand(1, 3, 20, 32), 1.0)
