"""Generated files: the workflows' pictures in the template browser, and what `generate --check` finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from seesr_pack.tools import generate, locales, thumbnails, workflows

FILES = thumbnails.files()


def test_every_workflow_has_a_picture_and_no_other() -> None:
    names = sorted(path.stem for path in thumbnails.WORKFLOWS.glob("*.jpg"))
    assert names == sorted(path.stem for path in FILES)
    assert names == sorted(path.stem for path in thumbnails.WORKFLOWS.glob("*.json"))
    assert thumbnails.MOTIFS.keys() <= set(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_picture_is_square_and_small_and_up_to_date(path: Path) -> None:
    assert path.stat().st_size < 60_000
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (512, 512))
    assert thumbnails.is_current(path, FILES[path]), "run `python run.py generate`"


def test_another_encoder_counts_as_the_same_picture_and_another_letter_does_not(tmp_path: Path) -> None:
    image = next(iter(FILES.values())).copy()
    image.save(tmp_path / "other.jpg", quality=60)
    assert thumbnails.is_current(tmp_path / "other.jpg", image)
    thumbnails.write(image, ".", (300, 200))
    assert not thumbnails.is_current(tmp_path / "other.jpg", image)


def test_text_under_the_badge_of_the_page_is_refused() -> None:
    image = Image.new("RGB", (thumbnails.SIDE, thumbnails.SIDE))
    with pytest.raises(ValueError, match="badge"):
        thumbnails.write(image, "18 steps", (26, 30))
    assert not image.getbbox()


def test_generate_lists_missing_changed_and_obsolete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    files: dict[Path, str | Image.Image] = {
        tmp_path / "workflows" / name: text for name, text in (("same.json", "1"), ("new.json", "2"), ("old.json", "3"))
    }
    for path, text in files.items():
        generate.write(path, text)
    files[tmp_path / "workflows" / "old.json"] = "4"
    (tmp_path / "workflows" / "new.json").unlink()
    gone = tmp_path / "workflows" / "api" / "gone.json"
    generate.write(gone, "5")
    (tmp_path / "workflows" / "notes").mkdir()
    assert generate.changes(files) == [tmp_path / "workflows" / "new.json", tmp_path / "workflows" / "old.json", gone]
    for path in generate.changes(files):
        generate.write(path, files.get(path))
    assert generate.changes(files) == []


@pytest.mark.parametrize("fault", [[], ["zh lacks a text"]])
def test_generate_check_writes_nothing_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: list[str]
) -> None:
    file = tmp_path / "README.md"
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(workflows, "load_node_classes", dict)
    monkeypatch.setattr(generate, "make", lambda classes: {file: "text"})
    monkeypatch.setattr(locales, "faults", lambda classes: fault)
    assert generate.main(["--check"]) == 1
    assert not file.exists()
    assert "README.md would change" in capsys.readouterr().out
    assert generate.main([]) == len(fault)
    assert file.read_text("utf-8") == "text"
    assert generate.main(["--check"]) == len(fault)
    assert capsys.readouterr().out.splitlines()[1:] == 2 * fault
