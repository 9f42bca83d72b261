"""The bench's section flicker: its film, its measure, and the manners in which nano upscales it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from seesr_pack.bench import flicker
from seesr_pack.bench.flicker import PHOTO, Scene, make_frames, measure_flicker, write_film
from seesr_pack.bench.flicker_work import MANNERS, Manner, cut, upscale_film
from seesr_pack.commands.films.reading import At, open_film, read_frames
from seesr_pack.commands.films.shots import Plan, make_shots

STILL = Scene(PHOTO, frames=4, px=64, pan=0)

OF_GRAIN = pytest.approx(12 / math.sqrt(math.pi), rel=0.02)
"""The mean absolute difference of two Gaussians of sigma 6. Its standard error over 36,864 differences is 0.4 %."""


@pytest.fixture
def stripes(tmp_path: Path) -> Scene:
    """A photo of gray stripes, far from black and white, so that no grain is clipped."""
    Image.fromarray(np.tile(np.uint8([80, 80, 160, 160]), (80, 30))).save(tmp_path / "stripes.png")
    return STILL._replace(photo=tmp_path / "stripes.png")


def test_the_film_has_new_grain_in_each_frame(stripes: Scene) -> None:
    assert measure_flicker(make_frames(stripes), 0) == OF_GRAIN
    assert all(map(torch.equal, make_frames(stripes), make_frames(stripes)))


def test_a_motion_that_is_known_is_no_flicker(stripes: Scene) -> None:
    frames = make_frames(stripes._replace(pan=5))
    assert measure_flicker(frames, 5) == OF_GRAIN
    assert measure_flicker(frames, 0) > 2 * measure_flicker(frames, 5)
    scene = torch.rand(3, 8, 30, generator=torch.Generator().manual_seed(0))
    assert measure_flicker([scene[..., :20], scene[..., 5:25]], 5) == 0


def test_the_film_is_written_without_loss(tmp_path: Path) -> None:
    frames = make_frames(STILL)
    read = read_frames(open_film(write_film(tmp_path, frames)), At(0, None), len(frames))
    assert [float((one - other).abs().max()) for one, other in zip(frames, read, strict=True)] == [0.0] * 4


def test_each_manner_runs_nano_with_its_settings(tmp_path: Path) -> None:
    """A double in place of ComfyUI sees which frames are looked at, which seed is used, and what is set."""
    frames = make_frames(STILL._replace(frames=3))
    film = open_film(write_film(tmp_path, frames))
    (shot,) = make_shots(film, Plan([0, 1, 2], [], 1, exact=False))
    looked: list[int] = []
    nodes: list[Any] = []

    class ComfyUI:
        def require_nodes(self, nodes: Any) -> None: ...

        def find_outputs(self, nodes: Any, outputs: Any, picture: torch.Tensor, show: Any) -> dict[Any, Any]:
            looked.append(next(number for number, frame in enumerate(frames) if torch.equal(frame, picture[0])))
            return {}

        def run_workflow(self, given: Any, picture: torch.Tensor, show: Any) -> list[torch.Tensor]:
            nodes.append({node["class_type"]: node["inputs"] for node in given.values()})
            return [picture]

    def made(name: str) -> list[int]:
        looked.clear()
        nodes.clear()
        found = list(upscale_film(shot, MANNERS[name], ComfyUI()))  # type: ignore[arg-type]
        assert [torch.equal(one, other) for one, other in zip(found, frames, strict=True)] == [True] * 3
        return [each["SeeSR_TiledSampler"]["seed"] for each in nodes]

    assert made("nano") == [0, 0, 0] and looked == [1]
    assert [each["SeeSR_FilmGrain"]["seed"] for each in nodes] == [0, 1, 2]
    assert isinstance(nodes[0]["SeeSR_FilmGrain"]["strength"], list)
    for name in MANNERS:
        seeds = made(name)
        if name != "nano":
            assert nodes[2]["SeeSR_FilmGrain"]["strength"] == 0
            assert seeds == ([0, 1, 2] if "fresh" in name else [0, 0, 0]), name
            assert looked == ([0, 1, 2] if "of each frame" in name else [1] * (3 if "fresh" in name else 1)), name
    assert made("without grain, 10 steps") and nodes[0]["SeeSR_TiledSampler"]["steps"] == 10
    assert made("without grain, fidelity 0.5") and nodes[0]["SeeSR_Fidelity"]["strength"] == 0.5
    assert cut(shot, Manner()) == [shot]


def test_figures_are_compared_with_bicubic(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(flicker, "answer_of", lambda _, *given: asked.extend(given[1:]) or [2.0] * len(MANNERS))
    figures = {figure.name: figure.value for figure in flicker.measure(STILL._replace(pan=3))}
    assert asked == ["4", "3"] and len(figures) == 2 + 2 * len(MANNERS)
    assert figures["nano / bicubic"] == 2.0 / figures["bicubic"]
    assert figures["bicubic"] < figures["the film"] < 7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frames": 1}, "--frames 1, .* give 2 or more"),
        ({"pan": -1}, "--pan -1: give"),
        ({"px": 40}, "has 40x30 px, and the film needs 40x40: lower --px"),
        ({"px": 20, "pan": 7}, "needs 41x20"),
        ({"photo": Path("gone.png")}, r"gone\.png"),
    ],
)
def test_a_film_that_cannot_be_made_is_told(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(flicker.SeeSRError, match=told):
        make_frames(STILL._replace(**{"photo": tmp_path / "a.png", "px": 20, **change}))
