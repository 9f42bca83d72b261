"""Transparency is enlarged without a halo."""

from __future__ import annotations

from pathlib import Path

import torch
from seesr_pack.commands.photos.alpha import TRUSTED_ALPHA, enlarge_alpha, spread_colours
from seesr_pack.commands.photos.reading import open_photo
from seesr_pack.seesr_modules.method.sizes import resize_bicubic

PHOTOS = Path(__file__).resolve().parents[1] / "photos"


def cutout(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc of one colour, with black under what is transparent."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 4) ** 2).float()[None]
    return torch.tensor([0.9, 0.6, 0.3]).view(3, 1, 1) * inside, inside


def test_transparent_pixels_take_the_colour_around_them() -> None:
    rgb, alpha = cutout()
    filled = spread_colours(rgb, alpha)
    assert float((filled - torch.tensor([0.9, 0.6, 0.3]).view(3, 1, 1)).abs().max()) < 1e-5


def test_an_enlarged_cutout_has_no_halo() -> None:
    """Without the colours spread, black from under the transparency reaches into the disc's edge."""
    rgb, alpha = cutout()
    large_alpha = enlarge_alpha(alpha, 256, 256)
    seen = (large_alpha > 0.05).expand(3, -1, -1)
    colour = torch.tensor([0.9, 0.6, 0.3]).view(3, 1, 1).expand(3, 256, 256)
    halo = (resize_bicubic(rgb[None], 256, 256)[0] - colour).abs()[seen].max()
    none = (resize_bicubic(spread_colours(rgb, alpha)[None], 256, 256)[0] - colour).abs()[seen].max()
    assert float(halo) > 0.3 > 0.01 > float(none)


def test_visible_pixels_stay_what_they_are() -> None:
    photo = open_photo(PHOTOS / "cutout_rgba.png").picture()
    assert photo.alpha is not None
    filled = spread_colours(photo.rgb, photo.alpha)
    seen = (photo.alpha >= TRUSTED_ALPHA).expand(3, -1, -1)
    assert torch.equal(filled[seen], photo.rgb[seen])
    hidden = (photo.alpha == 0).expand(3, -1, -1)
    assert float(photo.rgb[hidden].max()) == 0 < float(filled[hidden].min()) <= 1


def test_nothing_visible_and_everything_visible() -> None:
    rgb = torch.rand(3, 5, 7)
    for alpha in (torch.zeros(1, 5, 7), torch.ones(1, 5, 7)):
        assert torch.equal(spread_colours(rgb, alpha), rgb)


def test_one_visible_pixel_in_a_picture_of_any_size() -> None:
    for height, width in ((1, 9), (2, 2), (33, 17), (1, 1)):
        rgb, alpha = torch.rand(3, height, width), torch.zeros(1, height, width)
        alpha[0, height // 2, width // 2] = 1
        filled = spread_colours(rgb, alpha)
        assert torch.allclose(filled, rgb[:, height // 2, width // 2].view(3, 1, 1).expand_as(filled), atol=1e-5)


def test_alpha_keeps_its_ends() -> None:
    alpha = torch.zeros(1, 8, 8)
    alpha[:, :, 4:] = 1
    large = enlarge_alpha(alpha, 32, 48)
    assert large.shape == (1, 48, 32) and float(large.min()) == 0 and float(large.max()) == 1
