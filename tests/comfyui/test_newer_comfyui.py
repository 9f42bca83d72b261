"""Test how the pack copes with newer versions of ComfyUI.

Each difference from the pinned version is faked, so that every check can fail.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.controlnet
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.utils
import execution
import folder_paths
import pytest
import torch
from comfy_api.latest import io
from likeness import assert_alike, assert_same_tensors
from scenes import Tiny, apply_scene, make_scene, predict
from seesr_pack.commands.headless import session as headless
from seesr_pack.seesr_modules.comfyui import compat as patching
from seesr_pack.seesr_modules.comfyui import sockets
from seesr_pack.seesr_modules.comfyui.images import from_comfyui
from seesr_pack.seesr_modules.comfyui.loading import nano
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.steps import guidance, sampling, vae
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.method.image_attention import ImageAttention
from seesr_pack.seesr_modules.method.tiles import TileSettings, plan_tiles
from torch import Tensor

# ------------------------------------------------------------------------------------- ControlNets


@pytest.fixture
def newer_controlnets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ComfyUI's ControlNets keep prepared hints by latent size, as newer versions do."""
    base, network = comfy.controlnet.ControlBase, comfy.controlnet.ControlNet
    init, get_control, cleanup = base.__init__, network.get_control, network.cleanup

    def newer_init(self: Any) -> None:
        init(self)
        self.cond_hints, self.control_inputs, self.multigpu_clones = {}, {}, {}

    def newer_get_control(self: Any, x: Tensor, *args: Any) -> Any:
        size = tuple(x.shape[2:])
        self.cond_hint = self.cond_hints.get(size)
        control = get_control(self, x, *args)
        self.cond_hints[size], self.cond_hint = self.cond_hint, None
        return control

    def newer_cleanup(self: Any) -> None:
        cleanup(self)
        self.cond_hints.clear()

    monkeypatch.setattr(base, "__init__", newer_init)
    monkeypatch.setattr(network, "get_control", newer_get_control)
    monkeypatch.setattr(network, "cleanup", newer_cleanup)


def test_hints_kept_by_size_are_not_used_for_another_tile(
    tiny: Tiny, seesr: Any, request: pytest.FixtureRequest
) -> None:
    """Tiles of the same size each use their own hint at every step."""
    scene = make_scene(16, 16)

    def tiled() -> Tensor:
        model, positive, negative = apply_scene(tiny, seesr, scene)
        return predict(tile_model(model, TileSettings(8, 2, 1)), positive, negative, scene)

    expected = tiled()
    request.getfixturevalue("newer_controlnets")
    assert_alike(tiled(), expected)


def test_a_controlnet_on_a_second_device_gives_the_same_result(tiny: Tiny, seesr: Any) -> None:
    """Newer versions of ComfyUI copy the ControlNet, with its weights, to each device."""
    scene = make_scene(8, 8)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    expected = predict(model, positive, negative, scene)
    control = positive[0][1]["control"]
    clone = control.copy()
    clone.control_model = copy.deepcopy(control.control_model)
    clone.control_model_wrapped = patching.patcher_for(clone.control_model)
    for conditioning in (positive, negative):
        conditioning[0][1]["control"] = clone
    assert_alike(predict(model, positive, negative, scene), expected)
    assert_equal_but_separate_weights(clone.control_model, control.control_model)


class _Control:
    """A newer ComfyUI's ControlNet, reduced to the parts that tiling uses."""

    def __init__(self, hint: Tensor, **clones: _Control) -> None:
        self.cond_hint_original = hint
        self.extra_concat_orig: list[Tensor] = []
        self.cond_hints: dict[Any, Any] = {}
        self.multigpu_clones = clones
        self.previous_controlnet = None


def test_controlnet_clones_on_other_devices_get_the_crop_too() -> None:
    x = torch.arange(16 * 24, dtype=torch.float32).reshape(1, 1, 16, 24)
    hint = x.repeat_interleave(8, 2).repeat_interleave(8, 3)
    clone = _Control(hint)
    control = _Control(hint, second=clone)

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        assert torch.equal(clone.cond_hint_original[:, :, ::8, ::8], part)
        return [part.clone()]

    tiled = tiling.TiledPrediction(TileSettings(8, 2, 1, "gaussian"))
    conds = [[{"model_conds": {}, "control": control}]]
    torch.testing.assert_close(tiled.calc_cond_batch(predictor, _Model(), conds, x, torch.ones(1), {})[0], x)
    assert clone.cond_hint_original is hint


# ------------------------------------------------------------------------------------- further devices


def clone_for_second_device(patcher: Any) -> Any:
    """Clone a MODEL as newer versions of ComfyUI do for a second device: with newly loaded weights."""
    load, arguments = patcher.cached_patcher_init
    clone = patcher.clone()
    clone.model = load(*arguments).model
    for models in clone.additional_models.values():
        models[:] = map(clone_for_second_device, models)
    return clone


@pytest.fixture
def newer_patchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clones of a patcher keep its loader, as in newer versions."""
    clone = comfy.model_patcher.ModelPatcher.clone

    def newer_clone(self: Any, *args: Any, **kwargs: Any) -> Any:
        cloned = clone(self, *args, **kwargs)
        cloned.cached_patcher_init = getattr(self, "cached_patcher_init", None)
        return cloned

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "clone", newer_clone)


def assert_equal_but_separate_weights(network: torch.nn.Module, other: torch.nn.Module) -> None:
    """Assert that two networks have equal weights, to the bit, in separate memory."""
    weights, others = network.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
        assert tensor.data_ptr() != others[name].data_ptr(), name


@pytest.fixture
def networks_run(seesr: Any, monkeypatch: pytest.MonkeyPatch) -> list[ImageAttention]:
    """The image attention networks of UNets, in the order in which they run."""
    networks: list[ImageAttention] = []
    blocks_by_path = ImageAttention.blocks_by_path

    def noting_networks(self: ImageAttention, paths: Any) -> Any:
        if self.places == seesr.image_attention.model.places:
            networks.append(self)
        return blocks_by_path(self, paths)

    monkeypatch.setattr(ImageAttention, "blocks_by_path", noting_networks)
    return networks


@pytest.mark.usefixtures("newer_patchers")
def test_a_model_on_a_second_device_runs_its_own_image_attention(
    tiny: Tiny, seesr: Any, networks_run: list[ImageAttention]
) -> None:
    scene = make_scene(8, 8)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    second = clone_for_second_device(model)
    (own,) = second.get_additional_models_with_key("seesr")
    assert_equal_but_separate_weights(own.model, seesr.image_attention.model)
    results = [predict(patcher, positive, negative, scene, steps=1) for patcher in (model, second, model)]
    assert_alike(results[1], results[0])
    expected = [seesr.image_attention.model, own.model, seesr.image_attention.model]
    assert list(map(id, networks_run)) == list(map(id, expected))


def test_nano_can_be_loaded_for_a_second_device() -> None:
    loaded = nano.load_nano()
    load, arguments = loaded.model.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert type(again) is comfy.model_patcher.ModelPatcher
    assert_equal_but_separate_weights(again.model, loaded.model.model)


@pytest.mark.skipif(
    importlib.util.find_spec("comfy.memory_management") is None, reason="this ComfyUI has no dynamic memory"
)
def test_models_load_with_dynamic_memory(tiny: Tiny, seesr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's server sets the flag on graphics cards. A linear layer then has no tensors until it is loaded."""
    scene = make_scene(8, 8)
    expected, before = predict(*apply_scene(tiny, seesr, scene), scene), nano.load_nano()
    monkeypatch.setattr(importlib.import_module("comfy.memory_management"), "aimdo_enabled", True)
    assert not comfy.ops.manual_cast.Linear(4, 4, device="meta").state_dict()
    lazy = load_seesr_path(tiny.folder / "SeeSR", "float32")
    assert_alike(predict(*apply_scene(tiny, lazy, scene), scene), expected)
    after = nano.load_nano()
    for load in (
        lambda nano: nano.model.model,
        lambda nano: nano.clip.patcher.model.clip_h.transformer.text_model,
        lambda nano: nano.seesr.controlnet.control_model,
        lambda nano: nano.dape.patcher.model,
    ):
        assert_same_tensors(load(after).state_dict(), load(before).state_dict())


@pytest.mark.skipif(
    not hasattr(comfy.model_patcher.ModelPatcher, "deepclone_multigpu"), reason="this ComfyUI runs on one device"
)
@pytest.mark.parametrize("split", ["before", "after"])
def test_on_several_devices_each_has_its_own_image_attention(
    tiny: Tiny, seesr: Any, split: str, networks_run: list[ImageAttention], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands for two devices: one runs the positive cond, the other the negative.

    The node that splits the work may come before or after SeeSR ControlNet Apply.
    """
    split_work = importlib.import_module("comfy.multigpu").create_multigpu_deepclones
    devices = [torch.device("cpu"), torch.device("cpu:0")]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_: devices)
    monkeypatch.setattr(comfy.model_management, "set_torch_device", lambda _device: None)
    scene = make_scene(8, 8)
    expected = predict(*apply_scene(tiny, seesr, scene), scene, steps=1)
    networks_run.clear()
    base = split_work(tiny.model, 2) if split == "before" else tiny.model
    model, positive, negative = apply_scene(tiny, seesr, scene, model=base)
    model = split_work(model, 2) if split == "after" else model
    assert_alike(predict(model, positive, negative, scene, steps=1), expected)
    assert len(networks_run) == len(set(map(id, networks_run))) == 2


# ------------------------------------------------------------------------------------- memory


class _Patcher:
    """A newer ComfyUI's patcher. Its free memory includes the models that ComfyUI can unload."""

    def get_free_memory(self, _device: torch.device) -> float:
        return 1e30


class _Model:
    current_patcher = _Patcher()
    latent_format = comfy.latent_formats.SD15()
    model_sampling = comfy.model_sampling.ModelSamplingDiscrete()

    def memory_required(self, _shape: list[int]) -> float:
        return 1.0


@pytest.fixture
def nothing_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ComfyUI report no free memory, as when loaded models fill it."""
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 0.0)


@pytest.mark.usefixtures("nothing_free")
def test_memory_that_comfyui_can_free_counts_as_free_for_tiles() -> None:
    tiled = tiling.TiledPrediction(TileSettings(8, 2, 0, "gaussian"))
    x = torch.zeros(1, 4, 40, 40, device="meta")
    layout = plan_tiles(40, 40, 8, 2, "gaussian")
    assert tiled._batch_size(_Model(), [[], []], x, layout) == tiling.MAX_AUTO_BATCH
    older = _Model()
    older.current_patcher = object()
    assert tiled._batch_size(older, [[], []], x, layout) == 1


@pytest.mark.usefixtures("nothing_free")
def test_memory_that_comfyui_can_free_counts_as_free_for_the_vae(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    latent = torch.zeros(1, 4, 40, 40)
    monkeypatch.setattr(tiny.vae, "decode", lambda _latent: torch.zeros(1, 320, 320, 3))
    monkeypatch.setattr(vae, "blend_tiles", lambda *_: torch.ones(1, 3, 320, 320))
    assert vae.decode(tiny.vae, latent).max() == 1
    monkeypatch.setattr(type(tiny.vae.patcher), "get_free_memory", _Patcher.get_free_memory, raising=False)
    assert vae.decode(tiny.vae, latent).max() == 0


def test_errors_that_newer_comfyui_treats_as_out_of_memory_halve_the_tile_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class AcceleratorError(RuntimeError):
        """An error of newer drivers, which they also raise for other reasons than missing memory."""

    sizes: list[int] = []

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        sizes.append(len(part))
        if len(part) > 2:
            raise AcceleratorError("out of memory")
        return [part.clone()]

    def run() -> Tensor:
        sizes.clear()
        tiled = tiling.TiledPrediction(TileSettings(8, 2, 4, "gaussian"))
        (out,) = tiled.calc_cond_batch(predictor, _Model(), [[{"model_conds": {}}]], x, torch.ones(1), {})
        return out

    x = torch.randn(1, 4, 16, 16)
    with pytest.raises(AcceleratorError):
        run()  # an older ComfyUI does not know this error
    monkeypatch.setattr(comfy.model_management, "is_oom", lambda error: "memory" in str(error), raising=False)
    torch.testing.assert_close(run(), x)
    assert (sizes[0] == 4 and set(sizes[1:]) == {2, 1}) or set(sizes[1:]) == {2}


def test_networks_use_the_patcher_that_comfyui_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dynamic(comfy.model_patcher.ModelPatcher):
        """The patcher of newer versions, for dynamic memory."""

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic, raising=False)
    assert isinstance(patching.patcher_for(torch.nn.Linear(1, 1)), Dynamic)


# ------------------------------------------------------------------------------------- calls and types


def _tiled() -> Any:
    return tiling.TiledPrediction(TileSettings(8, 2, 1, "gaussian"))


WRAPPED: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "outer_sample": (lambda: _tiled().outer_sample, ()),
    "prepare_sampling": (lambda: _tiled().prepare_sampling, (None, [1, 4, 8, 8])),
    "calc_cond_batch": (
        lambda: _tiled().calc_cond_batch,
        (_Model(), [[]], torch.zeros(1, 4, 8, 8), torch.ones(1), {}),
    ),
    "guidance": (lambda: guidance._guide_within(1.0, 0.0), (torch.zeros(1), torch.ones(1), {})),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_pass_on_arguments_that_newer_comfyui_adds(name: str) -> None:
    wrapper, arguments = WRAPPED[name]
    seen: dict[str, Any] = {}
    wrapper()(lambda *_args, **kwargs: seen.update(kwargs), *arguments, newer=7)
    assert seen == {"newer": 7}


def test_the_start_noise_passes_on_arguments_that_newer_comfyui_adds(tiny: Tiny) -> None:
    class Guider:
        inner_model = tiny.model.model

    seen: dict[str, Any] = {}
    zero = torch.zeros(1, 4, 8, 8)
    executor = lambda *_args, **kwargs: seen.update(kwargs)  # noqa: E731 - it needs an attribute
    sampling._replace_start_noise(executor, Guider(), torch.zeros(2), {}, None, zero, zero, newer=7)
    assert seen == {"newer": 7}


def test_a_controlnet_passes_on_arguments_that_newer_comfyui_adds(seesr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        comfy.controlnet.ControlNet, "get_control", lambda _self, *args, **kwargs: seen.append((args[4:], kwargs))
    )
    control = seesr.controlnet.copy().set_cond_hint(torch.zeros(1, 3, 8, 8))
    control.model_sampling_current = SimpleNamespace(timestep=lambda sigma: sigma)  # as ComfyUI's pre_run sets it
    control.get_control(torch.zeros(1, 4, 1, 1), torch.zeros(1), {}, 1, "options", newer=7)
    assert seen == [(("options",), {"newer": 7})]


def test_pictures_in_half_precision_become_float32() -> None:
    assert from_comfyui(torch.rand(1, 8, 8, 3).half()).dtype is torch.float32


def test_schema_fields_reach_the_comfyui_versions_that_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Schema:
        """The schema of a newer ComfyUI."""

        node_id: str
        display_name: str
        category: str
        search_aliases: list[str] = dataclasses.field(default_factory=list)

    monkeypatch.setattr(io, "Schema", Schema)
    monkeypatch.setattr(sockets, "_KNOWN_FIELDS", {field.name for field in dataclasses.fields(Schema)})
    made = sockets.schema("Id", "Name", search_aliases=["alias"], unknown_to_it=1)
    assert made == Schema("Id", "Name", sockets.CATEGORY, ["alias"])


# ------------------------------------------------------------------------------------- without a server


def test_the_executor_gets_every_cache_size_that_newer_comfyui_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Executor(execution.PromptExecutor):
        def execute(self, *args: Any, **kwargs: Any) -> None:
            """Read the sizes as a newer ComfyUI does at the start of a run."""
            _ = int(self.cache_args["ram"] * 1024**3), int(self.cache_args["ram_inactive"] * 1024**3)
            super().execute(*args, **kwargs)

    for owner, name in (
        *((folder_paths, f"{kind}_directory") for kind in ("input", "output", "temp")),
        (comfy.utils, "PROGRESS_BAR_ENABLED"),
        (comfy.utils, "PROGRESS_BAR_HOOK"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # restored after the test
    monkeypatch.setattr(execution, "PromptExecutor", Executor)
    monkeypatch.setattr(headless, "start_comfyui", lambda _flags: None)
    monkeypatch.setattr(headless, "_add_model_paths", lambda _folder: None)
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    comfyui = headless.HeadlessComfyUI([], tmp_path, pack)
    workflow = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "made"}},
    }
    (made,) = comfyui.run_workflow(workflow, torch.zeros(1, 3, 8, 8), lambda *_: None)
    assert torch.equal(made, torch.zeros(1, 3, 8, 8))
