"""What upscale remembers of earlier runs' speed, and what it says before it starts."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from seesr_pack.commands.headless.workflow import WORKFLOWS, Workflow
from seesr_pack.commands.upscale import speeds
from seesr_pack.commands.upscale.speeds import MOST, Speeds, settings_of

UNKNOWN = "12 photos, 34 megapixels out; the time left is told after the first steps"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / ".cache" / "speeds.json"
    monkeypatch.setattr(speeds, "FILE", place)
    return place


def tell(settings: str = "s") -> str:
    return Speeds(settings).estimate("12 photos", 34e6, 36e6)


def test_the_last_run_with_the_same_settings_counts() -> None:
    assert tell() == UNKNOWN
    Speeds("s").note(1.0, 0.0)
    Speeds("s").note(40e-6, 60.0)
    assert tell() == "12 photos, 34 megapixels out, about 25 min (by the last run on this machine)"
    assert tell("other") == UNKNOWN
    assert Speeds("s").estimate("1 photo", 40_000, 262_144).startswith("1 photo, 0.1 megapixels out, about 1 min")
    assert Speeds("s").estimate("2 films", 1_540_000, 1_540_000).startswith("2 films, 1.5 megapixels out, about 2 min")


def test_the_file_is_bounded_and_the_oldest_go(file: Path) -> None:
    for number in range(MOST + 2):
        Speeds(str(number)).note(1e-6, 0.0)
        Speeds("0").note(2e-6, 0.0)
    kept = json.loads(file.read_text("utf-8"))
    assert len(kept) == MOST and {"0", str(MOST + 1)} <= kept.keys() and "1" not in kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"s": [1',
        '{"s": null}',
        '{"s": [1]}',
        '{"s": [NaN, 1]}',
        '{"s": ["x", 1]}',
        '{"s": [-1, 1]}',
        "[" * 10**5,
    ],
)
def test_a_broken_file_is_ignored_and_written_anew(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text, "utf-8")
    assert tell() == UNKNOWN
    Speeds("s").note(40e-6, 60.0)
    assert "about 25 min" in tell()


def test_what_is_sound_in_a_damaged_file_is_kept(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"a": [1e-6, 2], "b": [1e999, 2]}', "utf-8")
    Speeds("s").note(1e-6, 0.0)
    assert json.loads(file.read_text("utf-8")) == {"a": [1e-6, 2.0], "s": [1e-6, 0.0]}


def test_runs_at_once_lose_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread opens the lock for itself, as each process does."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: Speeds(str(number)).note(1e-6, 0.0), range(8)))
    assert len(json.loads(file.read_text("utf-8"))) == 8
    assert sorted(path.name for path in file.parent.iterdir()) == ["speeds.json", "speeds.lock"]


def test_a_file_that_cannot_be_written_does_no_harm(file: Path) -> None:
    file.parent.write_text("no folder")
    Speeds("s").note(1e-6, 0.0)
    assert tell() == UNKNOWN


def test_settings_are_what_the_speed_depends_on() -> None:
    def key(*changes: tuple[str, object], models: tuple[str, ...] = ("a",), machine: tuple[str, ...] = ("cpu",)) -> str:
        workflow = Workflow.read(WORKFLOWS / "seesr_upscale.json")
        for setting, value in changes:
            workflow.set_input(setting, value)
        return settings_of(workflow, models, machine)

    same = (("SeeSR_TiledSampler.seed", 7), ("SeeSR_LREmbed.upscale", 2.0), ("SeeSR_BuildPrompts.user_prompt", "a dog"))
    assert key(*same) == key()
    others = [
        key(("SeeSR_TiledSampler.steps", 20)),
        key(("SeeSR_TiledSampler.cfg", 1.0)),
        key(models=("b",)),
        key(machine=("cuda",)),
    ]
    assert len({key(), *others}) == 5
