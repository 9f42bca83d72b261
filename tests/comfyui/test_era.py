"""Era: its files, the words that it gives, its LoRA, and tags that never reach the prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from builders import GOLDEN, small_dape, small_unet, synthetic
from graphs import canonical, photo
from likeness import assert_alike, assert_same_tensors
from other_models import save_lora
from safetensors.torch import save_file
from scenes import Tiny, make_scene, predict
from seesr_pack.nodes.era import Era as EraNode
from seesr_pack.seesr_modules.comfyui.loading import eras
from seesr_pack.seesr_modules.comfyui.loading.eras import EXAMPLES, era_files, load_era
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.era import apply_lora
from seesr_pack.seesr_modules.comfyui.steps.tagging import TagSettings, describe
from seesr_pack.seesr_modules.comfyui.tiling.tile_prompts import PromptInputs, tag_tiles
from seesr_pack.seesr_modules.dape.tags import select_tags
from seesr_pack.seesr_modules.era import KEYS, Era, read_era
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.prompts import positive_text
from seesr_pack.seesr_modules.method.tiles import TileSettings

WHOLE = """
name: test
exclude: [laptop, "no", yes]  # YAML would take yes for a truth value
likely:
  - hat
  - tie, suit
before: 1920s photograph
after: silver print
negative: color
lora: sub/era.safetensors
lora_strength: 0.8
references: input/prints
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes an era into a models folder."""
    folder = tmp_path / "seesr" / "eras"
    folder.mkdir(parents=True)
    for kind in ("seesr", "loras"):
        (tmp_path / kind).mkdir(exist_ok=True)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))

    def written(text: str | bytes, name: str = "test.yaml") -> Path:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder / name

    return written


# ------------------------------------------------------------------------------------------ files


def test_a_whole_file_is_read(write: Callable[..., Path]) -> None:
    assert read_era(write("\ufeff" + WHOLE)) == Era(
        "test",
        ("laptop", "no", "yes"),
        ("hat", "tie", "suit"),
        "1920s photograph",
        "silver print",
        "color",
        "sub/era.safetensors",
        0.8,
        "input/prints",
    )
    assert read_era(write("name: 1920\nexclude:\nlora:\nlora_strength:\n")) == Era("1920")


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("name: a\nexlude: [b]", 2, "'exlude' is no key of an era; the keys are name, exclude"),
        ("name: a\n\nname: b", 3, "'name' is there a second time, first in line 1"),
        ("exclude: [b]", 1, "there is no name"),
        ("", 1, "has to begin with a key"),
        ("- a", 1, "has to begin with a key"),
        ("name: [a, b]", 1, "'name' takes one text"),
        ("name: a\nexclude:\n  - b\n  - [c]", 4, "'exclude' takes words"),
        ("name: a\nlikely: {b: c}", 2, "'likely' takes words"),
        ("name: a\nlora: b\nlora_strength: strong", 3, "'lora_strength' is 'strong'; give a number from -10 to 10"),
        ("name: a\nlora: b\nlora_strength: nan", 3, "'lora_strength' is 'nan'"),
        ("name: a\nlora: b\nlora_strength: 11", 3, "'lora_strength' is '11'"),
        ("name: a\nlora_strength: 1", 2, "needs a 'lora'"),
        ("name: a\nbefore: print of {tags}", 2, "this is no YAML|may not hold {tags}"),
        ("name: a\nbefore: 'print of {tags}'", 2, "may not hold {tags}"),
        ("name: a\nexclude: [hat]\nlikely: [tie, Hat]", 3, "'hat' is excluded and likely"),
        ("name: a\nexclude: [b", 2, "this is no YAML"),
        ("name: a\n\texclude: b", 2, "this is no YAML"),
        ("name: a\nexclude: *b", 2, "this is no YAML"),
        (b"name: a\nexclude: \xff", 2, "not UTF-8"),
        ("name: a\nafter: \x07", 2, "this is no YAML"),
        ("name: a\nlikely: " + "[" * 600, 1, "too deep"),
    ],
)
def test_a_fault_is_named_with_its_line(write: Callable[..., Path], text: str, line: int, fault: str) -> None:
    path = write(text)
    with pytest.raises(SeeSRError, match=rf"The era test\.yaml, line {line}: .*({fault})"):
        read_era(path)
    assert EraNode.validate_inputs("test.yaml").startswith("The era test.yaml, line")


def test_files_that_are_missing_or_too_large_are_named(write: Callable[..., Path]) -> None:
    with pytest.raises(SeeSRError, match=r"There is no era '\.\./secret\.yaml'"):
        load_era("../secret.yaml")
    with pytest.raises(SeeSRError, match="100001 bytes"):
        read_era(write(b"#" * 100_001))
    with pytest.raises(SeeSRError, match="cannot be read"):
        read_era(write("").with_name("none.yaml"))


def test_the_users_files_stand_before_the_examples(write: Callable[..., Path]) -> None:
    names = ["1920s_print.yaml", "1960s_slide.yaml", "1990s_consumer_photo.yaml"]
    assert list(era_files()) == names
    own = write("name: mine", "1960s_slide.yaml")
    write("name: other", "a.yml")
    write("no era", "notes.txt")
    assert list(era_files()) == ["1960s_slide.yaml", "a.yml", names[0], names[2]]
    assert era_files()["1960s_slide.yaml"] == own and load_era("1960s_slide.yaml").name == "mine"


def test_the_examples_are_whole_and_say_why() -> None:
    for path in EXAMPLES.iterdir():
        era, text = read_era(path), path.read_text("utf-8")
        assert len(era.exclude) > 8 and era.likely and era.before and era.after and era.negative
        assert not era.lora and not era.references, "nobody has these files"
        assert text.count("#") >= 8, "each list has its reasons"
        assert len(set(era.exclude)) == len(era.exclude)


# ------------------------------------------------------------------------------------------- words


def test_the_words_stand_before_and_after_the_tags() -> None:
    era = Era("a", before="1920s photograph,", after="silver print")
    assert positive_text("man, hat", era.user_prompt(), "8k") == "1920s photograph, man, hat, silver print,8k"
    assert positive_text("man", era.user_prompt("in Rome"), "8k") == "1920s photograph, man, silver print, in Rome,8k"
    assert positive_text("man", era.user_prompt("sad {tags} in Rome"), "") == (
        "1920s photograph, sad, man, silver print, in Rome,"
    )
    assert positive_text("", era.user_prompt(), "8k") == "1920s photograph, silver print,8k"
    assert positive_text("man", Era("a", after="print").user_prompt(), "8k") == "man, print,8k"
    assert positive_text("man", Era("a").user_prompt(), "8k") == "man, ,8k", "as published"


def test_a_likely_tag_is_on_at_half_its_threshold() -> None:
    """It need not be in the tag list; exclude wins over it."""
    vocabulary = small_dape().vocabulary
    logits = torch.tensor([0.6, 0.4, 0.2] + [0.0] * 9).logit(eps=1e-6)

    def words(pin: str, **settings: Any) -> list[str]:
        return [tag.word for tag in select_tags(logits, vocabulary, pin=pin, **settings)]

    assert words("") == ["tag0"]
    assert words("tag1?, tag2 ?, tag3?, no such tag?, ?") == ["tag0", "tag1"]
    assert words("Tag1\uff1f\uff0ctag2") == ["tag0", "tag1", "tag2"]
    assert words("tag1?", exclude="tag1") == ["tag0"]
    assert words("tag1?", thresholds=torch.full((12,), 0.7)) == ["tag1"] == words("tag1?", max_tags=1)
    with pytest.raises(SeeSRError, match="pin names 'no such tag'"):
        words("no such tag")


def test_excluded_tags_never_reach_the_prompt_and_likely_ones_do(tiny: Tiny) -> None:
    """In the whole picture and in every tile. A pinned tag is pinned in the whole picture alone."""
    dape = small_dape()
    hint = torch.rand(2, 3, 64, 192, generator=torch.Generator().manual_seed(0))
    tiles, prompts = TileSettings(8, 0), PromptInputs("", "q", "n", False)

    def words(**settings: Any) -> list[set[str]]:
        found = tag_tiles(dape, tiny.clip, hint, tiles, prompts, 0.5, TagSettings(**settings))
        rows = [*found.whole.tags, *(tags for row in found.tile_tags for tags in row)]
        return [{tag.word for tag in tags} for tags in rows]

    everything = set.union(*words())
    left_out = sorted(everything)[0]
    assert all(left_out not in tags for tags in words(exclude=left_out, threshold_offset=-1.0))
    scores = describe(dape, [hint])[1].sigmoid()
    faint = next(f"tag{i}" for i in range(12) if 0.25 < scores[0, i] < 0.5)
    assert faint not in words()[0] and faint in words(pin=f"{faint}?")[0]
    never = min(range(12), key=lambda i: float(scores[:, i].max()))
    pinned = words(pin=f"tag{never}", threshold_offset=1.0)
    assert [f"tag{never}" in tags for tags in pinned] == [True] * 2 + [False] * 6


# ---------------------------------------------------------------------------------------- the node


def test_the_node_gives_what_the_file_and_the_user_say(write: Callable[..., Path]) -> None:
    write(WHOLE)
    *texts, model, clip = EraNode.execute("test.yaml", 1.0, "dog", "in Rome", "noise", "cat").args
    assert texts == [
        "laptop, no, yes, dog",
        "hat?, tie?, suit?, cat",
        "1920s photograph, {tags}, silver print, in Rome",
        "color, noise",
        "input/prints",
        "sub/era.safetensors",
    ]
    assert model.message.startswith("Era passes 'model' on") and clip.message.startswith("Era passes 'clip' on")


def test_the_lora_is_put_on_model_and_clip(write: Callable[..., Path], tiny: Tiny, tmp_path: Path) -> None:
    """With the product of both strengths; what came in stays as it was."""
    unet = {name: tuple(tensor.shape) for name, tensor in synthetic(GOLDEN, "seesr_unet_tiny").items()}
    (tmp_path / "loras" / "sub").mkdir()
    era = read_era(write(WHOLE))
    with pytest.raises(SeeSRError, match=r"'sub/era\.safetensors' of the era 'test' is not in models/loras"):
        apply_lora(era, tiny.model, tiny.clip, 1.0)
    save_lora(tmp_path / "loras" / "sub" / "era.safetensors", unet)
    folder_paths.filename_list_cache.clear()
    model, clip = apply_lora(era, tiny.model, tiny.clip, 0.5)
    assert {patch[0] for patches in model.patches.values() for patch in patches} == {0.4}
    assert len(model.patches) > 10 and not tiny.model.patches and clip is not tiny.clip
    assert apply_lora(era, tiny.model, None, 0.5)[1] is None
    for unchanged in (apply_lora(era, tiny.model, tiny.clip, 0.0), apply_lora(Era("a"), tiny.model, tiny.clip, 1.0)):
        assert unchanged == (tiny.model, tiny.clip)
    save_file({"lora_unet_other.lora_down.weight": torch.ones(1, 2)}, tmp_path / "loras" / "sub" / "era.safetensors")
    with pytest.raises(SeeSRError, match="fits nothing in this model"):
        apply_lora(era, tiny.model, tiny.clip, 1.0)


@pytest.fixture
def era(write: Callable[..., Path], tmp_path: Path) -> Era:
    """An era whose LoRA fits the small UNet."""
    (tmp_path / "loras" / "sub").mkdir()
    unet = {name: tuple(tensor.shape) for name, tensor in small_unet().items()}
    save_lora(tmp_path / "loras" / "sub" / "era.safetensors", unet)
    return read_era(write(WHOLE))


def sampled(model: Any) -> torch.Tensor:
    scene = make_scene(8, 8)
    return predict(model, scene.positive, scene.negative, scene)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_the_lora_works_on_weights_of_every_type_and_after_unloading(era: Era, dtype: torch.dtype) -> None:
    """It changes the latent as it changes that of a model of float32, and the base stays equal to the bit.

    The changes differ by 5 times the rounding of a weight; 10 times is allowed. Without the LoRA they differ by 1.
    """

    base, exact = base_model(small_unet(), dtype, torch.float32), base_model(small_unet())
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    model, exact_model = (apply_lora(era, of, None, 1.0)[0] for of in (base, exact))
    plain, found = sampled(base), sampled(model)
    change, exact_change = found - plain, sampled(exact_model) - sampled(exact)
    assert (change - exact_change).std() <= 10 * torch.finfo(dtype).eps / 2 * exact_change.std()
    comfy.model_management.unload_all_models()
    assert_same_tensors(base.model.state_dict(), before)
    assert_alike(sampled(base), plain)
    assert_alike(sampled(model), found)


def test_the_nodes_cache_notices_the_file_its_lora_and_its_references(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    write(WHOLE)
    seen = [eras.era_state("test.yaml")]
    (tmp_path / "loras" / "sub").mkdir()
    (tmp_path / "loras" / "sub" / "era.safetensors").touch()
    seen.append(eras.era_state("test.yaml"))
    (tmp_path / "input" / "prints").mkdir(parents=True)
    seen.append(eras.era_state("test.yaml"))
    (tmp_path / "input" / "prints" / "1.png").touch()
    seen.append(eras.era_state("test.yaml"))
    write(WHOLE.replace("color", "colour"))
    seen.append(EraNode.fingerprint_inputs("test.yaml"))
    assert len(set(seen)) == len(seen)
    assert EraNode.fingerprint_inputs("test.yaml") == seen[-1] and EraNode.fingerprint_inputs(None) == ""


def test_a_list_of_keys_is_in_the_help() -> None:
    page = (Path(__file__).parents[2] / "web" / "docs" / "SeeSR_Era.md").read_text("utf-8")
    assert [key for key in KEYS if f"- {key}: " not in page] == []


def test_the_node_runs_in_a_graph_with_a_batch(run_graph: Callable[..., list[Any]]) -> None:
    """An excluded tag is in no picture's text, and the words stand around each picture's own tags."""
    run_graph.values |= {"image": photo(2, 24, 32), "dape": small_dape()}
    graph = canonical(prompts__user_prompt=["era", 2], prompts__negative_prompt=["era", 3], tagger__exclude=["era", 0])
    graph["dape"] = {"class_type": "TestValue", "inputs": {"key": "dape"}}
    own = {"exclude": "", "user_prompt": "", "negative_prompt": "noise", "pin": ""}
    graph["era"] = {"class_type": "SeeSR_Era", "inputs": {"era": "1920s_print.yaml", "strength": 1.0, **own}}
    graph["tagger"]["inputs"]["pin"] = ["era", 1]
    (before,) = run_graph(graph, ("prompts", 2))
    era = load_era("1920s_print.yaml")
    word = before.splitlines()[0].split(", ")[2]
    assert word.startswith("tag")
    graph["era"]["inputs"]["exclude"] = word
    (after,) = run_graph(graph, ("prompts", 2))
    assert len(after.splitlines()) == 2 and word not in after.replace(",", " ").split()
    assert all(line.startswith(f"{era.before}, tag") and f", {era.after}," in line for line in after.splitlines())
