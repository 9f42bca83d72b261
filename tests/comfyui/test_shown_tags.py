"""The data that DAPE Tagger sends to the page for its chips."""

from __future__ import annotations

import pytest
from seesr_pack.seesr_modules.comfyui.steps.tagging import ui_of_tags
from seesr_pack.seesr_modules.dape.tags import Tag, Vocabulary


@pytest.mark.parametrize("chinese", [None, ("湖", "小屋", "山")])
def test_every_tag_has_its_words_in_both_languages(chinese: tuple[str, ...] | None) -> None:
    vocabulary = Vocabulary(("lake", "hut", "mountain"), (0.5, 0.5, 0.5), chinese)
    pictures = [[Tag("mountain", 0.91239, 2)], [], [Tag("lake", 0.6, 0), Tag("hut", 0.7, 1)]]
    assert ui_of_tags(pictures, vocabulary) == {
        "text": ["mountain 0.91\n\nlake 0.60, hut 0.70"],
        "seesr_tags": [
            [{"word": "mountain", "score": 0.9124, "english": "mountain", "chinese": chinese and "山"}],
            [],
            [
                {"word": "lake", "score": 0.6, "english": "lake", "chinese": chinese and "湖"},
                {"word": "hut", "score": 0.7, "english": "hut", "chinese": chinese and "小屋"},
            ],
        ],
    }
