"""Reference: folders of photos, their kept embeddings, and what the node gives."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import pytest
import torch
from builders import small_dape
from graphs import canonical
from likeness import assert_alike
from PIL import Image
from scenes import Tiny
from seesr_pack.nodes.reference import Reference
from seesr_pack.seesr_modules.comfyui.loading import photos
from seesr_pack.seesr_modules.comfyui.loading.photos import find_folder, list_photos, read_photo
from seesr_pack.seesr_modules.comfyui.steps import reference, reference_index, reference_ui
from seesr_pack.seesr_modules.comfyui.steps.reference import Chosen, ReferenceSettings, add_tags, find_references
from seesr_pack.seesr_modules.comfyui.steps.reference_index import gather_references, index_pictures
from seesr_pack.seesr_modules.comfyui.steps.tagging import describe, tag
from seesr_pack.seesr_modules.comfyui.tiling.tile_prompts import PromptInputs, tag_tiles
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.references import PARTS
from seesr_pack.seesr_modules.method.tiles import TileSettings

ALL = ReferenceSettings(count=1, min_similarity=-1.0)


@pytest.fixture(scope="module")
def dape() -> Any:
    return small_dape()


def picture(seed: int, height: int = 20, width: int = 30) -> torch.Tensor:
    """Return a picture [1, 3, H, W] of coloured blocks, in steps of 1/255."""
    blocks = torch.randint(0, 256, (1, 3, 4, 6), generator=torch.Generator().manual_seed(seed)) / 255
    return torch.nn.functional.interpolate(blocks, (height, width))


def save(path: Path, image: torch.Tensor, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image[0].movedim(0, -1) * 255).round().numpy().astype(np.uint8)).save(path, **options)


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folders below a folder for this test, with three photos in input/archive."""
    for name in ("input", "output", "user", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    for number in range(3):
        save(tmp_path / "input" / "archive" / f"{number}.png", picture(number))
    return tmp_path


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many photos each call embeds."""
    counts: list[int] = []
    embed = reference_index._embed

    def noting(*arguments: Any) -> Any:
        counts.append(0)
        for found in embed(*arguments):
            counts[-1] += 1
            yield found

    monkeypatch.setattr(reference_index, "_embed", noting)
    return counts


# ---------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "name",
    ["", "archive", "/etc", "input/../..", "..", "C:\\photos", "\\\\server\\share", "user", "custom_nodes", "input/\0"],
)
def test_a_name_that_is_not_below_comfyuis_folders_is_refused(comfyui: Path, name: str) -> None:
    """Before anything is read: a network path may not even be asked for."""
    with pytest.raises(SeeSRError, match="below ComfyUI's input, output or models folder"):
        find_folder(name)


def test_folders_below_comfyuis_own_are_found(comfyui: Path) -> None:
    (comfyui / "models" / "seesr").mkdir(parents=True)
    names = ("input/archive", "input\\archive", " input/archive/ ", "input", "output", "models/seesr")
    assert [find_folder(name).relative_to(comfyui.resolve()).as_posix() for name in names] == [
        *("input/archive", "input/archive", "input/archive", "input", "output", "models/seesr")
    ]
    with pytest.raises(SeeSRError, match="There is no folder 'input/other': make the folder"):
        find_folder("input/other")


def test_links_do_not_lead_out(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Links to a folder or a photo elsewhere are not followed; one from folder to folder of ComfyUI is."""
    outside = tmp_path_factory.mktemp("outside")
    save(outside / "secret.png", picture(9))
    archive = comfyui / "input" / "archive"
    (archive / "link.png").symlink_to(outside / "secret.png")
    (archive / "below").symlink_to(outside, target_is_directory=True)
    (comfyui / "input" / "elsewhere").symlink_to(outside, target_is_directory=True)
    (comfyui / "output" / "linked").symlink_to(archive, target_is_directory=True)
    with pytest.raises(SeeSRError, match="a link that leads out"):
        find_folder("input/elsewhere")
    found = list_photos(find_folder("output/linked"))
    assert [photo.name for photo in found.photos] == ["0.png", "1.png", "2.png"]
    assert found.left_out == ("link.png (a link out of ComfyUI's folders)",)


def test_photos_are_read_upright_in_8_bits_and_not_too_large(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG at its reduced size, a rotated photo, gray, alpha and 16 bits."""
    image = picture(5)
    save(comfyui / "turned.png", image, exif=_turned())
    torch.testing.assert_close(read_photo(comfyui / "turned.png"), image.rot90(-1, (2, 3)))
    deep = (image[0, 0] * 65535).round().numpy().astype(np.uint16)
    Image.fromarray(deep).save(comfyui / "deep.png")
    torch.testing.assert_close(read_photo(comfyui / "deep.png"), image[:, :1].expand(-1, 3, -1, -1))
    pixels = (image[0].movedim(0, -1) * 255).round().numpy().astype(np.uint8)
    Image.fromarray(pixels).convert("RGBA").save(comfyui / "alpha.webp", lossless=True)
    torch.testing.assert_close(read_photo(comfyui / "alpha.webp"), image)
    monkeypatch.setattr(photos, "LARGEST_SIDE", 16)
    save(comfyui / "large.jpg", picture(5, 80, 120))
    assert read_photo(comfyui / "large.jpg").shape == (1, 3, 11, 16)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


# ------------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("parts", [1, PARTS])
def test_a_folder_is_embedded_once(comfyui: Path, dape: Any, embedded: list[int], parts: int) -> None:
    """Afterwards only what is new or has changed; embeddings are those of the pictures to half precision."""

    def gathered() -> Any:
        (found,) = gather_references(dape, "input/archive", [], parts > 1)
        return found

    first = gathered()
    assert embedded == [3] and first.embeddings.shape[1] == parts
    expected = index_pictures(dape, [picture(number) for number in range(3)], parts)
    assert_alike(first.embeddings.float(), expected.embeddings.float())
    embedded.clear()
    assert torch.equal(gathered().embeddings, first.embeddings) and embedded == []
    archive = comfyui / "input" / "archive"
    save(archive / "below" / "3.jpg", picture(3))
    save(archive / "1.png", picture(7))
    (archive / "0.png").unlink()
    found = gathered()
    assert embedded == [2] and found.names == ("1.png", "2.png", "below/3.jpg")
    assert torch.equal(found.embeddings[1], first.embeddings[2])
    assert not torch.equal(found.embeddings[0], first.embeddings[1])
    assert torch.equal(found.read(0), picture(7))
    embedded.clear()
    assert torch.equal(gathered().embeddings, found.embeddings) and embedded == []


def test_another_tagger_has_embeddings_of_its_own(comfyui: Path, dape: Any, embedded: list[int]) -> None:
    """The same weights in another type are the same tagger."""
    taggers = (dape, small_dape(1), small_dape(0, torch.float16), small_dape(0, torch.bfloat16), dape, small_dape(1))
    for loaded, expected in zip(taggers, ([3], [3], [], [], [], []), strict=True):
        embedded.clear()
        gather_references(loaded, "input/archive", [], False)
        assert embedded == expected


def test_a_damaged_or_unwritable_place_costs_only_time(
    comfyui: Path, dape: Any, embedded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    gather_references(dape, "input/archive", [], False)
    (kept,) = (comfyui / "user").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-9])
    gather_references(dape, "input/archive", [], False)
    assert embedded == [3, 3] and "cannot be read and is not used" in caplog.text
    for path in sorted((comfyui / "user").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (comfyui / "user" / "__seesr").write_text("a file where the folder should be")
    (found,) = gather_references(dape, "input/archive", [], False)
    assert len(found.names) == 3 and "cannot be kept" in caplog.text


def test_an_interrupted_run_keeps_what_it_has(
    comfyui: Path, dape: Any, embedded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_index, "BATCH", 1)
    read = reference_index.read_photo

    def interrupted(path: Path) -> torch.Tensor:
        if path.name == "2.png":
            raise comfy.model_management.InterruptProcessingException
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(reference_index, "read_photo", interrupted)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            gather_references(dape, "input/archive", [], False)
    gather_references(dape, "input/archive", [], False)
    assert embedded == [2, 1]


def test_bad_pictures_are_named_and_left_out(comfyui: Path, dape: Any, caplog: pytest.LogCaptureFixture) -> None:
    archive = comfyui / "input" / "archive"
    (archive / "empty.png").touch()
    (archive / "text.jpg").write_text("no picture")
    (archive / "cut.png").write_bytes((archive / "0.png").read_bytes()[:90])
    save(archive / "dot.png", picture(1, 1, 1))
    (archive / "notes.txt").write_text("not a picture by its name")
    with caplog.at_level(logging.WARNING):
        (found,) = gather_references(dape, "input/archive", [], False)
    assert found.names == ("0.png", "1.png", "2.png")
    assert {line.split(" (")[0] for line in found.left_out} == {"empty.png", "text.jpg", "cut.png", "dot.png"}
    assert all(f"{name}.png" in caplog.text for name in ("empty", "cut", "dot"))
    for number in range(3):
        (archive / f"{number}.png").unlink()
    with pytest.raises(SeeSRError, match=r"has no photo that can be read.*left out: cut\.png"):
        gather_references(dape, "input/archive", [], False)
    assert gather_references(dape, "", [], False) == []


# --------------------------------------------------------------------------------------- the step


def test_the_nearest_reference_stands_beside_each_picture(dape: Any) -> None:
    """Each of two pictures gets the tokens of its own reference, in a batch as alone."""
    references = [index_pictures(dape, [picture(3), picture(1), picture(2)], 1)]
    images = torch.cat([picture(1), picture(2)])
    found = find_references(dape, images, references, ALL)
    own, _ = describe(dape, [images])
    assert found.soft_prompt.shape[1] == 2 * own.shape[1]
    assert_alike(found.soft_prompt, torch.cat([own, own], dim=1))
    assert sorted((one.name, one.uses) for one in found.chosen) == [("reference 2", 1), ("reference 3", 1)]
    assert all(one.similarity > 0.999 for one in found.chosen)
    alone = find_references(dape, images[1:], references, ALL)
    assert_alike(alone.soft_prompt, found.soft_prompt[1:])
    assert alone.tags == found.tags[1:]
    nothing = find_references(dape, images, references, ReferenceSettings(min_similarity=1.01))
    assert_alike(nothing.soft_prompt, own)
    assert nothing.tags == [[], []] and nothing.chosen == []


def test_tags_that_both_show_are_added_to_the_photos_own(dape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo is its own reference: both show all of its tags, and those at half their thresholds not excluded."""
    image = picture(1)
    own = [found.word for found in tag(dape, image).tags[0]]
    assert len(own) > 1
    found = find_references(dape, image, [index_pictures(dape, [image], 1)], ALL)
    assert found.tags == [own]
    settings = ReferenceSettings(1, -1.0, exclude=own[0])
    assert find_references(dape, image, [index_pictures(dape, [image], 1)], settings).tags == [own[1:]]
    faint = find_references(dape, picture(2), [index_pictures(dape, [image], 1)], ALL).tags[0]
    monkeypatch.setattr(reference, "SHOWN_FAINTLY", 0.0)
    assert set(faint) < set(own), "else the next line would show nothing"
    assert find_references(dape, picture(2), [index_pictures(dape, [image], 1)], ALL).tags[0] == own
    assert add_tags(["sea, Sky"], [["sky", "tree"]]) == ["sea, Sky, tree"]
    assert add_tags([], [["sky"], []]) == ["sky", ""]
    assert add_tags(["a"], [["b"], []]) == ["a, b", "a"]
    with pytest.raises(SeeSRError, match="'tags' holds 3 texts and 'image' 2 pictures"):
        add_tags(["a", "b", "c"], [["sky"], []])


def test_a_tile_finds_a_small_thing_in_a_part_of_a_reference(tiny: Tiny, dape: Any) -> None:
    """The thing fills one tile of the photo and one corner of the reference."""
    hint = torch.cat([picture(4, 64, 64), picture(1, 64, 64)], dim=3)
    large = picture(8, 128, 128)
    large[..., 64:, 64:] = 0.95 * picture(1, 64, 64)
    prompts = PromptInputs("", "q", "n", False)
    tiled = tag_tiles(dape, tiny.clip, hint, TileSettings(8, 0), prompts)
    conds = [tiled.positive, tiled.negative]
    settings = ReferenceSettings(1, 0.95)
    found = find_references(dape, hint, [index_pictures(dape, [large], PARTS)], settings, conds)
    before, *after = (cond[0][1]["seesr_tiles"].soft_prompts for cond in (tiled.positive, *found.conditioning))
    tokens = before.shape[2]
    assert torch.equal(after[0], after[1]) and after[0].shape == (2, 1, 2 * tokens, before.shape[3])
    assert_alike(after[0][0, 0, tokens:], before[0, 0])  # nothing found for it: its own tokens, twice
    assert torch.equal(after[0][1, 0, :tokens], before[1, 0])
    assert_alike(after[0][1, 0, tokens:], describe(dape, [large[..., 64:, 64:]])[0][0])
    assert [one.name for one in found.chosen] == ["reference 1"]
    assert "seesr_tiles" in found.conditioning[0][0][1] and found.conditioning[0][0][0] is tiled.positive[0][0]
    with pytest.raises(SeeSRError, match="per_tile is on"):
        find_references(dape, hint, [], settings, [tiled.positive, None])
    with pytest.raises(SeeSRError, match="per_tile is on"):
        find_references(dape, hint, [], settings, [[[torch.zeros(1), {}]]])


def test_a_reference_is_found_after_the_tagger_was_unloaded(dape: Any) -> None:
    references = [index_pictures(dape, [picture(1), picture(2)], 1)]
    before = find_references(dape, picture(1), references, ALL)
    comfy.model_management.unload_all_models()
    assert_alike(find_references(dape, picture(1), references, ALL).soft_prompt, before.soft_prompt)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_every_weight_type_finds_the_same_reference(dtype: torch.dtype) -> None:
    loaded = small_dape(0, dtype)
    found = find_references(loaded, picture(1), [index_pictures(loaded, [picture(3), picture(1)], 1)], ALL)
    assert found.chosen[0].name == "reference 2" and torch.isfinite(found.soft_prompt).all()


# --------------------------------------------------------------------------------------- the node


def graph(**inputs: Any) -> dict[str, Any]:
    """Return the canonical graph with Reference between tagger and prompts."""
    changed = canonical(apply__soft_prompt=["reference", 0], prompts__tags=["reference", 1], sampler__steps=1)
    changed["dape"] = {"class_type": "TestValue", "inputs": {"key": "dape"}}
    given = {"dape": ["dape", 0], "image": ["image", 0], "tags": ["tagger", 0], "exclude": "", "per_tile": False}
    given |= {"folder": "input/archive", "count": 1, "min_similarity": -1.0} | inputs
    changed["reference"] = {"class_type": "SeeSR_Reference", "inputs": given}
    return changed


def test_the_node_runs_in_a_graph(run_graph: Callable[..., list[Any]], comfyui: Path, dape: Any) -> None:
    """A batch of two, with references from a folder and from a batch; the picture is finished."""
    run_graph.values["dape"] = dape
    run_graph.values["image"] = torch.cat([picture(0), picture(9)]).movedim(1, -1)
    run_graph.values["more"] = picture(9).movedim(1, -1)
    parts = graph(references=["more", 0])
    parts["more"] = {"class_type": "TestValue", "inputs": {"key": "more"}}
    text, result = run_graph(parts, ("prompts", 2), ("color", 0))
    assert len(text.splitlines()) == 2
    assert result.shape == (2, 40, 60, 3) and torch.isfinite(result).all()


def test_tiles_with_references_are_sampled(run_graph: Callable[..., list[Any]], comfyui: Path, dape: Any) -> None:
    """The UNet gets the tokens of each tile and of its reference, for positive and negative."""
    run_graph.values |= {"dape": dape, "image": picture(1, 32, 64).movedim(1, -1)}
    links = {"positive": ["tiles", 0], "negative": ["tiles", 1]}
    parts = graph(image=["embed", 1], tags=["tiles", 3], per_tile=True, **links)
    tile = {"tile_px": 64, "overlap_px": 0}
    words = {"user_prompt": "", "quality_prompt": "q", "negative_prompt": "n", "single_chunk": False}
    tags = {"context": 0.5, "threshold_offset": 0.0, "exclude": "", "max_tags": 0}
    joined = {"dape": ["dape", 0], "clip": ["checkpoint", 1], "hint": ["embed", 1]}
    parts["tiles"] = {"class_type": "SeeSR_TileTagger", "inputs": {**joined, **tile, **tags, **words}}
    parts["apply"]["inputs"] |= {"positive": ["reference", 3], "negative": ["reference", 4]}
    parts["sampler"]["inputs"] |= {**tile, "tile_batch": 1}
    seen: list[torch.Tensor] = []
    network = run_graph.tiny.model.model.diffusion_model
    handle = network.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["seesr_image_embeds"].clone()), with_kwargs=True
    )
    conditioning, _ = run_graph(parts, ("reference", 3), ("sampler", 0))
    handle.remove()
    prompts = conditioning[0][1]["seesr_tiles"]
    assert len(seen) == len(prompts.tiles) > 1 and prompts.soft_prompts.shape[2] == 2 * 17
    for found, expected in zip(seen, prompts.soft_prompts, strict=True):
        torch.testing.assert_close(found, expected.expand(2, -1, -1))


def test_the_node_shows_what_it_chose(comfyui: Path, dape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of two batches gives two soft prompts; each chosen photo is shown once, with its similarity."""
    shown: list[str] = []
    monkeypatch.setattr(reference_ui, "show_on_node", lambda _node, text: shown.append(text))
    given = {"folder": ["input/archive"], "count": [1], "min_similarity": [0.99], "per_tile": [False], "exclude": [""]}
    images = [picture(1).movedim(1, -1), torch.cat([picture(2), picture(1)]).movedim(1, -1)]
    (comfyui / "input" / "archive" / "bad.png").touch()
    output = Reference.execute(dape=[dape], image=images, **given)
    soft_prompts, tags, chosen, *conditioning = output.args
    assert [len(batch) for batch in soft_prompts] == [1, 2] and len(tags) == 3
    assert [tuple(one.shape) for one in chosen] == [(1, 20, 30, 3)] * 2
    assert output.ui["text"] == shown
    lines = shown[0].splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines[:2]) == ["1.png (2 times)", "2.png"]
    assert lines[0].startswith("1.000") and lines[2].startswith("left out: bad.png")
    assert len(output.ui["images"]) == 2
    assert all(part[0].message.startswith("Reference passes") for part in conditioning)
    given |= {"folder": [""], "min_similarity": [1.0]}
    output = Reference.execute(dape=[dape], image=images, references=[picture(9).movedim(1, -1)], **given)
    assert output.args[2][0].message is None and output.ui == {"text": ["no reference is similar enough"]}


def test_a_name_that_the_font_lacks_is_left_out_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    draw = reference_ui._captioned
    monkeypatch.setattr(reference_ui, "_captioned", lambda one, line: captions.append(line) or draw(one, line))
    chosen = [Chosen(name, 0.85, 1, picture(1)) for name in ("a b.png", "祖父.jpg")]
    assert len(reference_ui.ui_of_references(chosen, [], Reference)["images"]) == 2
    assert captions == ["0.850 a b.png", "0.850"]


def test_the_nodes_cache_notices_a_new_photo(comfyui: Path) -> None:
    before = Reference.fingerprint_inputs(folder=["input/archive"])
    assert Reference.fingerprint_inputs(folder=["input/archive"]) == before
    os.utime(comfyui / "input" / "archive" / "0.png", ns=(1, 1))
    assert Reference.fingerprint_inputs(folder=["input/archive"]) != before
    assert "There is no folder" in Reference.fingerprint_inputs(folder=["input/none"])
    assert "There is no folder" in Reference.validate_inputs(folder=["input/none"])
    assert "nothing to search" in Reference.validate_inputs(folder=[""])
    assert Reference.validate_inputs(folder=[""], references=(None,)) is True
    assert Reference.validate_inputs(folder=(None,)) is True is Reference.validate_inputs(folder=["input/archive"])


def test_the_cache_notices_a_new_photo_in_a_linked_folder(
    comfyui: Path, dape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI passes None for a linked name. Without a change, the run after the first one comes from the cache."""
    monkeypatch.setattr(photos, "_first_states", {})
    before = Reference.fingerprint_inputs(folder=(None,))
    gather_references(dape, "input/archive", [], False)
    assert Reference.fingerprint_inputs(folder=(None,)) == before
    save(comfyui / "input" / "archive" / "new.png", picture(7))
    after = Reference.fingerprint_inputs(folder=(None,))
    assert after != before
    gather_references(dape, "input/archive", [], False)
    assert Reference.fingerprint_inputs(folder=(None,)) == after
