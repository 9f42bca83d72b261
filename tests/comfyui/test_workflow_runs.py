"""The shipped workflows run on tiny models, and what is new in each of them counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import nodes
import pytest
import torch
from builders import GOLDEN, one_step, synthetic
from comfy_api.latest import io
from likeness import assert_alike
from other_models import save_controlnet, save_lora
from other_nodes import CAPTIONERS
from PIL import Image
from seesr_pack.seesr_modules import published
from seesr_pack.seesr_modules.config import EncoderSizes
from shipped import (
    CONTROLNET,
    ERA_PHOTOS,
    LORA,
    NAMES,
    REFERENCES,
    UPSCALER,
    Json,
    api,
    english_part,
    node_named,
    training_outputs,
    with_own_training,
)
from upscale_models import save_layout


class Pack:
    """A node that makes one value out of up to four, so that a graph runs once for all of them."""

    RETURN_TYPES = ("*",)
    FUNCTION = "pack"

    @classmethod
    def INPUT_TYPES(cls) -> Json:  # noqa: N802 - ComfyUI's name
        return {"required": {}, "optional": {f"value{number}": (io.AnyType.io_type, {}) for number in range(4)}}

    def pack(self, **values: Any) -> tuple[list[Any]]:
        return ([values[name] for name in sorted(values)],)


@pytest.fixture
def run_small(
    models: Path, run_graph: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Any]]:
    """Return a function that runs a shipped workflow on tiny models: its graph, then the wanted (title, slot) pairs.

    It changes the graph that it is given.
    """
    unet = {name: tuple(t.shape) for name, t in synthetic(GOLDEN, "seesr_unet_small").items()}
    for name in ("input/example.png", f"{REFERENCES}/one.png", f"{ERA_PHOTOS}/one.png", f"{ERA_PHOTOS}/two.png"):
        Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(models / name)
    save_lora(models / "loras" / LORA, unet)
    save_layout("Real-ESRGAN", models / "upscale_models" / UPSCALER)
    save_controlnet(models / "controlnet" / CONTROLNET, EncoderSizes.from_shapes(unet))
    for file in published.ONE_STEP:
        torch.save(
            one_step(unet, is_pisa=file == published.PISA_SR),
            models / "loras" / file.path,
        )
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "TestPack", Pack)

    def run(graph: Json, *wanted: tuple[str, int], steps: int = 2) -> list[Any]:
        small = {"upscale": 2.0, "process_size": 64, "steps": steps, "weight_dtype": "float32"}
        for node in graph.values():
            node["inputs"].update({key: value for key, value in small.items() if key in node["inputs"]})
            if node["class_type"] == "CheckpointLoaderSimple":
                node["class_type"] = "TestCheckpoint"
        values = {f"value{number}": [node_named(graph, title), slot] for number, (title, slot) in enumerate(wanted)}
        (results,) = run_graph({**graph, "pack": {"class_type": "TestPack", "inputs": values}}, ("pack", 0))
        return results

    return run


def paint_mask(models: Path) -> None:
    """Paint a mask over the left half of the picture, as the page's mask editor saves it: as alpha."""
    picture = Image.linear_gradient("L").resize((40, 24)).convert("RGBA")
    picture.paste((128, 128, 128, 0), (0, 0, 20, 24))
    picture.save(models / "input" / "example.png")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "train_era_lora"])  # has a test of its own
def test_the_api_file_runs_on_tiny_models(name: str, models: Path, run_small: Callable[..., list[Any]]) -> None:
    graph = api(name)
    end = "Tags" if name == "dape_tagging" else "Save Image"
    (source,) = (value for value in graph[node_named(graph, end)]["inputs"].values() if isinstance(value, list))
    steps = 1 if "onestep" in name else 2
    (result,) = run_small(graph, (english_part(graph[source[0]]["_meta"]["title"]), source[1]), steps=steps)
    if name == "dape_tagging":
        assert isinstance(result, str)
    else:
        factor = 4 if name == "seesr_two_passes" else 2
        assert result.shape == (1, factor * 24, factor * 40, 3)
        assert torch.isfinite(result).all() and result.std() > 0


def test_the_lora_counts_and_leaves_the_base_model_as_it_was(run_small: Callable[..., list[Any]]) -> None:
    without = api("seesr_lora")
    lora, base = node_named(without, "Load LoRA"), node_named(without, "Load Checkpoint")
    for node in without.values():
        links = {name: value for name, value in node["inputs"].items() if isinstance(value, list) and value[0] == lora}
        node["inputs"] |= {name: [base, slot] for name, (_, slot) in links.items()}
    del without[lora]
    before, changed, after = (
        run_small(graph, ("Tiled Sampler", 0))[0]["samples"] for graph in (without, api("seesr_lora"), without)
    )
    assert (changed - before).abs().max() > 1e-2 * before.std()
    assert_alike(after, before)


def test_the_upscale_models_result_reaches_lr_embed_at_the_photos_size(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_upscale_model_first")
    photo, cleaned, hint = run_small(graph, ("Load Image", 0), ("Clean First", 0), ("LR Embed", 1))
    assert cleaned.shape == photo.shape
    graph[node_named(graph, "LR Embed")]["inputs"]["image"] = [node_named(graph, "Load Image"), 0]
    (plain,) = run_small(graph, ("LR Embed", 1))
    assert hint.shape == plain.shape and (hint - plain).abs().max() > 1e-2


def test_the_second_look_changes_the_picture_inside_the_mask_alone(
    models: Path, run_small: Callable[..., list[Any]]
) -> None:
    graph = api("seesr_detail_inpaint")
    first = graph[node_named(graph, "ImageCompositeMasked")]["inputs"]["destination"]
    graph[first[0]]["_meta"]["title"] = "First decode"
    ends = (("First decode", 0), ("ImageCompositeMasked", 0))
    before, after = run_small(graph, *ends)
    assert_alike(after, before)  # nothing painted
    paint_mask(models)
    before, after = run_small(graph, *ends)
    middle = before.shape[2] // 2
    assert (before - after)[:, :, : middle - 8].abs().max() > 1e-2
    assert_alike(after[:, :, middle + 8 :], before[:, :, middle + 8 :])


def test_the_face_pass_changes_the_result_inside_the_mask_alone(
    models: Path, run_small: Callable[..., list[Any]]
) -> None:
    graph = api("seesr_faces")
    ends = (("Color Fix", 0), ("ImageCompositeMasked", 0))
    before, after = run_small(graph, *ends)
    assert_alike(after, before)  # nothing painted
    paint_mask(models)
    before, after = run_small(graph, *ends)
    middle = before.shape[2] // 2
    assert_alike(after[:, :, : middle - 8], 1 - before[:, :, : middle - 8])
    assert_alike(after[:, :, middle + 8 :], before[:, :, middle + 8 :])


def test_the_second_pass_starts_from_the_first_ones_result(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_two_passes")
    first, hint, result = run_small(graph, ("Colours of the first pass", 0), ("LR Embed", 1), ("Color Fix", 0))
    assert first.shape == (1, 48, 80, 3) and result.shape == (1, 96, 160, 3)
    enlarged = torch.nn.functional.interpolate(first.movedim(-1, 1), hint.shape[1:3], mode="bicubic").movedim(1, -1)
    assert (hint - enlarged).abs().mean() < 0.1 * first.std()


def test_the_own_caption_stands_in_front_of_the_tags(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_own_caption")
    text, tags = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0))
    caption = graph[node_named(graph, "Caption")]["inputs"]["value"]
    assert caption and tags and text.startswith(f"{caption}, {tags}, ,")


def test_a_captioners_text_may_stand_in_its_place(
    run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its damage repaired; for a batch also linked to the tags' input alone."""
    for name, (captioner, photo_input, slot, wanted) in CAPTIONERS.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, captioner)
        graph = api("seesr_own_caption")
        photo = [node_named(graph, "Load Image"), 0]
        two = {"image1": photo, "image2": photo}
        graph["two"] = {"class_type": "ImageBatch", "inputs": two, "_meta": {"title": "Two"}}
        graph["captioner"] = {"class_type": name, "inputs": {photo_input: photo}, "_meta": {"title": name}}
        graph[node_named(graph, "Concatenate")]["inputs"]["string_a"] = ["captioner", slot]
        text, tags = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0))
        assert text.startswith(f"{wanted.format(0)}, {tags}, ,")
        graph["captioner"]["inputs"][photo_input] = ["two", 0]
        graph[node_named(graph, "Build Prompts")]["inputs"]["tags"] = ["captioner", slot]
        text, positive = run_small(graph, ("Build Prompts", 2), ("Build Prompts", 0))
        assert [line.partition(", ,")[0] for line in text.split("\n")] == [wanted.format(0), wanted.format(1)], name
        assert len(positive[0][0]) == 2


def test_the_other_controlnet_works_beside_seesrs(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_extra_controlnet")
    both, conditioning = run_small(graph, ("Tiled Sampler", 0), ("SeeSR ControlNet Apply", 1))
    control = conditioning[0][1]["control"]
    assert control.previous_controlnet is not None and control.previous_controlnet.previous_controlnet is None
    graph[node_named(graph, "Apply ControlNet")]["inputs"]["strength"] = 0.0
    (alone,) = run_small(graph, ("Tiled Sampler", 0))
    assert (both["samples"] - alone["samples"]).abs().max() > 1e-3


def test_a_regions_words_count_in_the_region_alone(models: Path, run_small: Callable[..., list[Any]]) -> None:
    paint_mask(models)
    graph = api("seesr_regional_prompts")
    graph[node_named(graph, "Tiled Sampler")]["inputs"]["sampler_name"] = "euler"

    def predicted() -> torch.Tensor:
        """Return what the first step predicts: one step of euler ends there."""
        return run_small(graph, ("Tiled Sampler", 0), steps=1)[0]["samples"]

    first = predicted()
    graph[node_named(graph, "Text inside the mask")]["inputs"]["text"] = "a red car"
    second = predicted()
    graph[node_named(graph, "Text outside the mask")]["inputs"]["text"] = "a green field"
    third = predicted()
    inside, outside = ((one - other).abs().amax(dim=(0, 1, 2)) for one, other in ((first, second), (second, third)))
    quarter = len(inside) // 4
    assert inside[:quarter].min() > 1e-3 and inside[-quarter:].max() == 0
    assert outside[:quarter].max() == 0 and outside[-quarter:].min() > 1e-3


def test_where_two_seeds_disagree_the_result_is_the_plain_upscale(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_invention_map")
    graph[node_named(graph, "Color Fix")]["inputs"] |= {"width": 0, "height": 0}
    mask, first, hint, result = run_small(
        graph, ("Invention Map", 0), ("Colours of the first", 0), ("LR Embed", 1), ("Color Fix", 0)
    )
    assert mask.shape == first.shape[:3] and mask.max() == 1
    assert_alike(result[mask == 1], hint[mask == 1])
    assert (result - first).abs().max() > 1e-2


def test_the_references_in_the_folder_are_found(models: Path, run_small: Callable[..., list[Any]]) -> None:
    """Here the reference is the photo itself, so its tokens are the photo's."""
    graph = api("seesr_reference")
    wanted = (("Reference", 2), ("Reference", 0), ("DAPE Tagger", 1), ("Build Prompts", 2))
    chosen, joined, own, text = run_small(graph, *wanted)
    assert chosen.shape == (1, 24, 40, 3)
    assert_alike(joined, torch.cat([own, own], dim=1))
    assert text.endswith(", ,clean, high-resolution, 8k")


def write_era(models: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Write the user's own file in place of the example that the workflow names."""
    (models / "own" / "eras").mkdir(parents=True)
    (models / "own" / "eras" / "1920s_print.yaml").write_text(text)
    paths, suffixes = folder_paths.folder_names_and_paths["seesr"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seesr", ([*paths, str(models / "own")], suffixes))


def test_the_eras_words_reach_tags_prompts_and_search(
    models: Path, run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = api("seesr_era")
    text, before = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0))
    assert text.startswith(f"1920s photograph, black and white, {before}, gelatin")
    word = before.split(", ")[0]
    era = f"name: a\nexclude: [{word}]\nbefore: slide\nreferences: {REFERENCES}\n"
    write_era(models, monkeypatch, era)
    text, tags, chosen = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0), ("Reference", 2))
    assert word in before.split(", ") and word not in tags.split(", ")
    assert text.startswith(f"slide, {tags},") and word not in text.split(", ")
    assert chosen.shape == (1, 24, 40, 3)


def test_a_lora_is_trained_from_a_folder_and_put_on_the_model_by_the_era(
    models: Path, run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step on tiny models and pictures. The file has the layers of the UNet, and they have learnt something."""
    monkeypatch.setattr(folder_paths, "output_directory", str(models))
    train = with_own_training(api("train_era_lora"))
    small = {"shorter_edge": 64, "width": 64, "height": 64, "training_dtype": "fp32", "lora_dtype": "fp32", "rank": 1}
    for node in train.values():
        node["inputs"] |= {key: value for key, value in small.items() if key in node["inputs"]}
    outputs = (("Train LoRA", training_outputs().index(name)) for name in ("lora", "steps"))
    texts, lora, steps = run_small(train, ("Words of the era", 0), *outputs, steps=1)
    assert texts.startswith("1960s color slide, ") and steps == 1
    save = train[node_named(train, "Save LoRA Weights")]
    nodes.NODE_CLASS_MAPPINGS[save["class_type"]].execute(lora, save["inputs"]["prefix"], steps)
    (file,) = (models / "loras").glob("era*.safetensors")
    assert file.name == "era_1_steps_00001_.safetensors"

    write_era(models, monkeypatch, f"name: mine\nlora: {file.name}")
    (model,) = run_small(api("seesr_era"), ("Era", 6))
    trained = [name for name, tensor in lora.items() if "lora_up" in name and tensor.abs().max() > 0]
    assert len(trained) > 20
    assert {f"{name.partition('.lora_up')[0]}.weight" for name in trained} <= set(model.patches)


def test_era_and_references_run_on_nano(
    models: Path, run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the photo itself, found by nano's tagger. Its soft prompt is twice as long as nano's own."""
    graph = api("seesr_era")
    nano = node_named(graph, "Load Checkpoint")
    outputs = {nano: (0, 1, 2), node_named(graph, "Load SeeSR"): (3,), node_named(graph, "Load DAPE"): (4,)}
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in outputs:
                node["inputs"][name] = [nano, outputs[value[0]][value[1]]]
    graph = {number: node for number, node in graph.items() if number not in outputs or number == nano}
    graph[nano] |= {"class_type": "SeeSR_LoadNano", "inputs": {}}
    write_era(models, monkeypatch, f"name: a\nexclude: [gray, sky]\nlikely: [hat]\nreferences: {REFERENCES}\n")
    text, own, joined, result = run_small(
        graph, ("Build Prompts", 2), ("DAPE Tagger", 1), ("Reference", 0), ("Color Fix", 0), steps=1
    )
    assert not {"gray", "sky"} & set(text.split(", "))
    assert_alike(joined, torch.cat([own, own], dim=1))
    assert result.shape == (1, 48, 80, 3) and torch.isfinite(result).all()
