"""Read tag files, and select tags by their scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from seesr_pack.seesr_modules.dape import tags as tags_module
from seesr_pack.seesr_modules.dape.tags import Tag, Vocabulary, join_tags, read_vocabulary, select_tags
from seesr_pack.seesr_modules.errors import SeeSRError
from torch import Tensor

WORDS = Vocabulary(
    english=("cat", "Dog", "red fox", "owl"),
    thresholds=(0.5, 0.9, 0.6, 0.7),
    chinese=("猫", "狗", "赤狐", "猫头鹰"),
)
SCORES = (0.55, 0.89, 0.95, 0.71)


@pytest.fixture
def logits() -> Tensor:
    return torch.tensor(SCORES).logit()


def words_of(tags: list[Tag]) -> list[str]:
    return [tag.word for tag in tags]


def test_each_class_has_its_own_threshold(logits: Tensor) -> None:
    tags = select_tags(logits, WORDS)
    assert [(tag.word, tag.index) for tag in tags] == [("cat", 0), ("red fox", 2), ("owl", 3)]
    assert [tag.score for tag in tags] == pytest.approx([0.55, 0.95, 0.71])
    assert join_tags(tags) == "cat, red fox, owl"
    assert join_tags([]) == ""


def test_a_score_equal_to_the_threshold_does_not_count() -> None:
    words = Vocabulary(("a",), (0.5,))
    assert select_tags(torch.zeros(1), words) == []
    assert len(select_tags(torch.full((1,), 1e-3), words)) == 1


def test_the_offset_moves_all_thresholds(logits: Tensor) -> None:
    assert words_of(select_tags(logits, WORDS, threshold_offset=0.03)) == ["cat", "red fox"]
    assert words_of(select_tags(logits, WORDS, threshold_offset=-0.02)) == list(WORDS.english)
    assert select_tags(logits, WORDS, threshold_offset=1) == []


def test_max_tags_keeps_the_most_certain_in_class_order(logits: Tensor) -> None:
    assert words_of(select_tags(logits, WORDS, max_tags=1)) == ["red fox"]
    assert words_of(select_tags(logits, WORDS, max_tags=2)) == ["cat", "red fox"]
    assert len(select_tags(logits, WORDS, max_tags=9)) == 3


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("", ["cat", "red fox", "owl"]),
        ("CAT ,  red fox", ["owl"]),
        ("red", ["cat", "red fox", "owl"]),
        ("猫\uff0c赤狐", ["owl"]),
        (["owl", "猫"], ["red fox"]),
        (" , ", ["cat", "red fox", "owl"]),
    ],
)
def test_excluded_tags_are_left_out(logits: Tensor, exclude: str | list[str], left: list[str]) -> None:
    assert words_of(select_tags(logits, WORDS, exclude=exclude)) == left


def test_exclude_comes_before_max_tags(logits: Tensor) -> None:
    assert words_of(select_tags(logits, WORDS, exclude="red fox", max_tags=1)) == ["cat"]


@pytest.mark.parametrize(
    ("pin", "kept"),
    [
        ("", ["cat", "red fox", "owl"]),
        ("DOG , ", list(WORDS.english)),
        ("狗\uff0cowl", list(WORDS.english)),
        (["Dog"], list(WORDS.english)),
        ("owl", ["cat", "red fox", "owl"]),
    ],
)
def test_a_pinned_tag_is_kept_at_any_score(logits: Tensor, pin: str | list[str], kept: list[str]) -> None:
    assert words_of(select_tags(logits, WORDS, pin=pin)) == kept


@pytest.mark.parametrize(
    ("pin", "max_tags", "kept"),
    [("owl", 1, ["owl"]), ("owl", 2, ["red fox", "owl"]), ("dog, cat", 1, ["cat", "Dog"])],
)
def test_pinned_tags_count_towards_max_tags_and_stay(logits: Tensor, pin: str, max_tags: int, kept: list[str]) -> None:
    assert words_of(select_tags(logits, WORDS, pin=pin, max_tags=max_tags)) == kept


def test_exclude_wins_over_pin(logits: Tensor) -> None:
    assert words_of(select_tags(logits, WORDS, exclude="狗, owl", pin="dog, Owl")) == ["cat", "red fox"]
    assert words_of(select_tags(logits, WORDS, exclude="dog", pin="dog, cat", max_tags=2)) == ["cat", "red fox"]


def test_tags_in_chinese(logits: Tensor) -> None:
    assert words_of(select_tags(logits, WORDS, language="chinese", exclude="cat")) == ["赤狐", "猫头鹰"]
    with pytest.raises(SeeSRError, match="chinese"):
        select_tags(logits, Vocabulary(WORDS.english, WORDS.thresholds), language="chinese")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, r"\(3,\) do not fit 4"),
        ({"logits": torch.zeros(1, 4)}, r"\(1, 4\)"),
        ({"logits": torch.tensor([0, 0, 0, float("nan")])}, "not finite, though its weights are: check that the image"),
        ({"max_tags": -1}, "max_tags is -1"),
        ({"threshold_offset": float("nan")}, "threshold_offset is nan"),
        ({"language": "french"}, "french"),
        ({"pin": "cat, red"}, "pin names 'red'"),
    ],
)
def test_bad_arguments_are_refused(logits: Tensor, change: dict[str, object], message: str) -> None:
    with pytest.raises(SeeSRError, match=message):
        select_tags(**{"logits": logits, "vocabulary": WORDS, **change})


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    "data", ["cat\nred fox", "cat\nred fox\n", "cat\r\nred fox\r\n\r\n", b"\xef\xbb\xbfcat \nred fox"]
)
def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path: Path, data: bytes | str) -> None:
    thresholds = write(tmp_path, "thresholds.txt", "0.5\r\n 0.25\n")
    words = read_vocabulary(write(tmp_path, "tags.txt", data), thresholds, 2)
    assert words == Vocabulary(("cat", "red fox"), (0.5, 0.25))


def test_the_chinese_file_is_read(tmp_path: Path) -> None:
    english = write(tmp_path, "a.txt", "cat")
    chinese = write(tmp_path, "b.txt", "猫")
    thresholds = write(tmp_path, "c.txt", "1")
    assert read_vocabulary(english, thresholds, 1, chinese).words("chinese") == ("猫",)


@pytest.mark.parametrize(
    ("tags", "thresholds", "message"),
    [
        ("cat", "0.5\n0.5", r"tags.txt has 1 lines, but the tagger has 2"),
        ("cat\nowl", "0.5", r"thresholds.txt has 1 lines"),
        ("cat\nowl", "0.5\nhalf", "Line 2 of the tag thresholds .* 'half'"),
        ("cat\nowl", "0.5\n1.5", "threshold is 1.5"),
        ("cat\nowl", "0.5\nnan", "threshold is nan"),
        (b"cat\n\xff\xfe", "0.5\n0.5", "tags.txt is not UTF-8"),
        ("", "0.5\n0.5", "tags.txt has 0 lines"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, tags: bytes | str, thresholds: str, message: str) -> None:
    paths = write(tmp_path, "tags.txt", tags), write(tmp_path, "thresholds.txt", thresholds)
    with pytest.raises(SeeSRError, match=message):
        read_vocabulary(*paths, 2)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match=r"tags\.txt is missing"):
        read_vocabulary(tmp_path / "tags.txt", write(tmp_path, "t.txt", "0.5"), 1)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(SeeSRError, match=r"\[1, 2\]"):
        Vocabulary(("a", "b"), (0.5,))


def test_published_files_are_checked_by_their_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = write(tmp_path, "ram_tag_list.txt", "cat")
    thresholds = write(tmp_path, "thresholds.txt", "0.5")
    assert len(read_vocabulary(tags, thresholds, 1).english) == 1  # another model's list is not checked
    monkeypatch.setattr(tags_module, "PUBLISHED_CLASSES", 1)
    with pytest.raises(SeeSRError, match=r"ram_tag_list\.txt is not the published file"):
        read_vocabulary(tags, thresholds, 1)
    digest = "77af778b51abd4a3c51c5ddd97204a9c3ae614ebccb75a606c3b6865aed6744e"  # sha256 of "cat"
    monkeypatch.setitem(tags_module.PUBLISHED_SHA256, "ram_tag_list.txt", digest)
    assert read_vocabulary(tags, thresholds, 1).english == ("cat",)
