"""What the pack calls in ComfyUI, by name: with any version of ComfyUI it must be there and accept the calls."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_MODULES = ("comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "latent_preview", "nodes")

METHODS = {
    "comfy.model_patcher.ModelPatcher": (
        "clone()",
        "add_object_patch(name, obj)",
        "add_wrapper_with_key(kind, key, wrapper)",
        "remove_wrappers_with_key(kind, key)",
        "set_additional_models(key, models)",
        "get_model_object(name)",
        "model_state_dict(prefix)",
        "model_dtype()",
    ),
    "comfy.sd.VAE": ("encode(pixels)", "decode(latent)"),
    "comfy.sd.CLIP": ("tokenize(text)", "encode_from_tokens_scheduled(tokens)", "load_sd(tensors)"),
    "comfy.controlnet.ControlNet": (
        "set_cond_hint(hint, strength, percents)",
        "set_previous_controlnet(previous)",
        "set_extra_arg(name, value)",
        "get_control(x, t, cond, batched, options)",
        "copy_to(other)",
        "cleanup()",
    ),
    "comfy.model_base.BaseModel": ("memory_required(shape)",),
    "comfy.model_sampling.ModelSamplingDiscrete": ("sigma(timestep)", "timestep(sigma)"),
    "comfy.samplers.KSAMPLER": ("max_denoise(guider, sigmas)",),
    "latent_preview.LatentPreviewer": ("decode_latent_to_preview_image(kind, latent)",),
    "comfy.conds.CONDRegular": ("_copy_with(tensor)",),
    "comfy.utils.ProgressBar": ("update(1)", "update_absolute(1)"),
    "execution.PromptExecutor": ("execute(prompt, name, data, outputs)",),
}
"""Methods that the pack calls, and how it calls them. The source alone does not show which class they belong to."""


def comfyui_uses() -> Iterator[tuple[str, str, ast.Call | None]]:
    """Yield where the pack names something of ComfyUI, the dotted name, and the call if it is called."""
    for folder in ("nodes", "seesr_modules"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(file.read_text("utf-8"))
            names = dict(_imported(tree))
            calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Name | ast.Attribute) and (name := _dotted(node, names)):
                    where = f"{file.relative_to(ROOT).as_posix()}:{node.lineno}"
                    yield where, name, calls.get(id(node))


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in COMFYUI_MODULES:
                    yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and str(node.module).partition(".")[0] in COMFYUI_MODULES
        ):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value, names)):
        return f"{owner}.{node.attr}"
    return None


def resolve(name: str) -> Any:
    """Return ComfyUI's object with that dotted name."""
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for count, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:count]))
        found = getattr(found, part)
    return found


def misfit(function: Any, call: ast.Call, bound: int = 0) -> str | None:
    """Return why a function of ComfyUI does not accept a call, or None. ``bound`` is 1 to count a method's ``self``."""
    if any(isinstance(argument, ast.Starred) for argument in call.args) or any(not k.arg for k in call.keywords):
        return None
    positional = [None] * (len(call.args) + bound)
    try:
        inspect.signature(function).bind(*positional, **{keyword.arg: None for keyword in call.keywords if keyword.arg})
    except TypeError as error:
        return str(error)
    return None


def test_every_comfyui_name_in_the_pack_exists_and_accepts_the_calls() -> None:
    faults, seen = [], set()
    for where, name, call in comfyui_uses():
        seen.add(name)
        try:
            found = resolve(name)
        except (AttributeError, ImportError) as error:
            faults.append(f"{where}: {name}: {error}")
            continue
        if call is not None and (fault := misfit(found, call)):
            faults.append(f"{where}: {name}: {fault}")
    assert not faults, "\n".join(faults)
    assert {"comfy.sample.sample_custom", "comfy_api.latest.io.Schema", "comfy.cldm.cldm.ControlNet"} <= seen


def test_every_comfyui_method_accepts_the_calls_of_the_pack() -> None:
    faults = []
    for owner, calls in METHODS.items():
        for text in calls:
            call = ast.parse(text, mode="eval").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            method = getattr(resolve(owner), call.func.id, None)
            fault = "is gone" if method is None else misfit(method, call, bound=1)
            faults += [f"{owner}.{text}: {fault}"] if fault else []
    assert not faults, "\n".join(faults)


def test_a_changed_comfyui_is_noticed() -> None:
    """Show that the two tests above can fail: for a missing name, an argument too many and an unknown keyword."""
    with pytest.raises(ImportError):
        resolve("comfy.samplers.gone")
    call = ast.parse("f(1, 2, new=3)", mode="eval").body
    assert isinstance(call, ast.Call)
    assert misfit(lambda a, b: None, call) and misfit(lambda a, new: None, call)
    assert misfit(lambda a, b, new: None, call) is None
