"""The texts of SeeSR's prompts."""

from __future__ import annotations

import pytest
from seesr_pack.seesr_modules.method.prompts import repair_words


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("", ""),
        ("a blurry photo of a noisy street", "a clear photo of a clean street"),
        ("an out-of-focus, Low Resolution picture", "a sharp, High-resolution picture"),
        ("An unfocused shot, (grainy:1.3)", "A sharp shot, (clean:1.3)"),
        ("cat, blur, JPEG artifacts, film grain, grass", "cat, grass"),
        ("noise, cat", "cat"),
        ("motion blur", ""),
        ("grain, noise barrier, blur of lights", "grain, noise barrier, blur of lights"),
        (
            "not blurry, isn't noisy, not a blurry one, non-blurry",
            "not blurry, isn't noisy, not a blurry one, non-blurry",
        ),
        ("embedding:blurry, unblurry, blurry_old", "embedding:blurry, unblurry, blurry_old"),
        ("lowres, low-res and poor-quality", "high-resolution, high-resolution and high-quality"),
    ],
)
def test_words_for_damage_become_their_opposites(text: str, repaired: str) -> None:
    """In any case; words that only hold one, names of files, and what is denied stay."""
    assert repair_words(text) == repaired
    assert repair_words(repaired) == repaired
