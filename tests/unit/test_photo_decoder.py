"""Nano's decoder that reads the photo."""

from __future__ import annotations

import pytest
import torch
from likeness import assert_alike
from seesr_pack.seesr_modules.nano.autoencoder import PHOTO_PREFIX, PatchAutoencoder
from seesr_pack.seesr_modules.nano.photo_decoder import PhotoDecoder
from seesr_pack.seesr_modules.weights.checkpoint import InMemory
from torch import Tensor

REACH_PX = 24
"""How far a decoder of two blocks looks: six convolutions, of one cell of 4 px each."""


def pictures(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(width: int = 8, blocks: int = 2) -> PhotoDecoder:
    """Return a decoder in which every layer has an effect."""
    torch.manual_seed(1)
    decoder = PhotoDecoder(width, blocks)
    torch.nn.init.normal_(decoder.leave.weight, std=0.1)
    return decoder.requires_grad_(False)


def autoencoder() -> PatchAutoencoder:
    torch.manual_seed(2)
    made = PatchAutoencoder(channels=6, refiner_width=4, refiner_layers=1)
    made.photo_decoder = trained()
    return made.requires_grad_(False)


def test_before_training_the_photo_is_kept() -> None:
    """An untrained decoder returns the photo."""
    decoded, photo = pictures(1, 2, 3, 16, 24), pictures(2, 2, 3, 16, 24)
    assert torch.equal(PhotoDecoder(8, 2)(decoded, photo), photo)


def test_latent_and_photo_have_an_effect() -> None:
    """Another photo or another latent gives another result."""
    decoded, photo = pictures(1, 1, 3, 16, 16), pictures(2, 1, 3, 16, 16)
    result = trained()(decoded, photo)
    for other in (trained()(-decoded, photo), trained()(decoded, -photo)):
        assert (result - other).abs().mean() > 0.01


def test_a_part_equals_the_whole_but_for_its_margin() -> None:
    """Cut out with a margin as wide as the decoder looks, a part is as in the whole: tiles have no seam."""
    decoded, photo = pictures(1, 1, 3, 96, 96), pictures(2, 1, 3, 96, 96)
    whole, part = trained()(decoded, photo), trained()(decoded[..., :64], photo[..., :64])
    assert_alike(part[..., : 64 - REACH_PX], whole[..., : 64 - REACH_PX], 1e-5)
    assert (part[..., 64 - REACH_PX :] - whole[..., 64 - REACH_PX : 64]).abs().max() > 1e-3


def test_fidelity_mixes_both_decoders() -> None:
    """0 is the plain decoder, 1 the one that reads the photo."""
    model = autoencoder()
    latents, photo = pictures(3, 1, 6, 3, 4), pictures(4, 1, 3, 24, 32)
    assert model.photo_decoder is not None
    plain, faithful = model.decode(latents), model.photo_decoder(model.decoder(latents), photo)
    for fidelity in (0.0, 0.3, 1.0):
        mixed = (1 - fidelity) * plain + fidelity * faithful
        assert_alike(model.decode_with_photo(latents, photo, fidelity), mixed, 1e-5)


def test_loaded_as_saved() -> None:
    """The sizes are read from the shapes, and a file without the decoder has none."""
    model = autoencoder()
    loaded = PatchAutoencoder.load(InMemory(model.state_dict()))
    latents, photo = pictures(3, 1, 6, 3, 4), pictures(4, 1, 3, 24, 32)
    assert torch.equal(loaded.decode_with_photo(latents, photo, 0.5), model.decode_with_photo(latents, photo, 0.5))
    plain = {name: t for name, t in model.state_dict().items() if not name.startswith(PHOTO_PREFIX)}
    assert PatchAutoencoder.load(InMemory(plain)).photo_decoder is None


def test_sides_that_are_no_cells_are_refused() -> None:
    """A picture of 18 pixels has no whole cells of 4."""
    with pytest.raises(Exception, match="18"):
        trained()(pictures(1, 1, 3, 18, 16), pictures(2, 1, 3, 18, 16))
