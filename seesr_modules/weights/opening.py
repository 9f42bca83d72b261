"""Opening of weights by path: which kind a file is, which file of a folder is meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import SeeSRError
from .formats import begins_like_safetensors, begins_like_torch, open_safetensors, open_torch
from .part import Part, read_head, reading
from .reader import WeightFile

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

FOLDER_ORDER = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model-001.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
"""The first of these that a folder has is read: safetensors before pickles, full precision before half."""

_INDEX_NAME = re.compile(r".+\.safetensors\.index(\.\w+)?\.json")
_SHARD_NAME = re.compile(r"\w[\w.+ -]*\.safetensors")


def open_weights(path: Path) -> WeightFile:
    """Check a weight file, or a folder in the diffusers layout (see FOLDER_ORDER), and describe its tensors.

    A folder with none of the names of that layout may hold a single index of .safetensors files, or else a single
    weight file, under any other name. The first bytes of a file tell what it is; its name counts only where they do
    not.

    The path itself may be a symbolic link to anywhere, since people keep models on other disks: it is what the user
    chose. Inside a folder, links must stay in the folder.

    Raises:
        SeeSRError: The file is missing, of another kind, damaged, or unsafe to read.
    """
    with reading(path):
        is_folder = path.is_dir()
    return WeightFile(path, _open_folder(path) if is_folder else [_open_file(path)])


def _open_file(path: Path) -> Part:
    head = read_head(path)
    if begins_like_torch(head):
        return open_torch(path)
    if begins_like_safetensors(head) or path.suffix.lower() == ".safetensors":
        return open_safetensors(path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        raise SeeSRError(f"{path} was not written by torch.save, whatever its name says; choose another file.")
    raise SeeSRError(f"{path} is no weight file; use .safetensors or {', '.join(TORCH_SUFFIXES)}.")


def _open_folder(folder: Path) -> list[Part]:
    with reading(folder):
        present = {entry.name for entry in folder.iterdir()}
    name = next((name for name in FOLDER_ORDER if name in present), None) or _only_weights(folder, present)
    path = resolve_inside(folder, name)
    return _open_shards(folder, path) if name.endswith(".json") else [_open_file(path)]


def _only_weights(folder: Path, present: set[str]) -> str:
    """Return the one index or weight file of a folder, under whatever name."""
    weights = sorted(filter(_INDEX_NAME.fullmatch, present))
    weights = weights or sorted(name for name in present if Path(name).suffix.lower() in SUFFIXES)
    if len(weights) != 1:
        found = f"several weight files ({', '.join(weights[:3])})" if weights else "no weights"
        raise SeeSRError(f"{folder} holds {found}; one of these is needed: {', '.join(FOLDER_ORDER)}.")
    return weights[0]


def _open_shards(folder: Path, index: Path) -> list[Part]:
    """Open the shards that an index names, which together must hold exactly the tensors that it names."""
    read_head(index)
    with reading(index):
        content = json.loads(index.read_bytes())
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise SeeSRError(f"{index} has no weight_map of tensor names to files; download it again.")
    for file in files.values():
        if not isinstance(file, str) or not _SHARD_NAME.fullmatch(file):
            raise SeeSRError(f"{index} names {str(file)[:80]!r}, which is not a .safetensors file beside it; refused.")
    parts = [_open_file(resolve_inside(folder, file)) for file in dict.fromkeys(files.values())]
    held = {(name, part.path.name) for part in parts for name in part.tensors}
    if wrong := sorted(held.symmetric_difference(files.items())):
        raise SeeSRError(
            f"{index} and its files disagree on {len(wrong)} tensors, first {wrong[0][0]!r}; download them again."
        )
    return parts


def resolve_inside(folder: Path, name: str) -> Path:
    """Return a file or folder that a folder holds, refusing a link that leads out of it.

    The Hugging Face cache keeps files in models--NAME/blobs and links in models--NAME/snapshots/REVISION;
    there links may lead anywhere in models--NAME.

    Raises:
        SeeSRError: It leads out, or cannot be followed.
    """
    path = folder / name
    with reading(path):
        limit = folder.resolve(strict=True)
        for parent in limit.parents:
            if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
                limit = parent.parent
        if not path.resolve(strict=True).is_relative_to(limit):
            raise SeeSRError(f"{path} is a link out of its folder; put there what it leads to.")
    return path
