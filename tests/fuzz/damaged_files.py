"""Make damaged and forged weight files for open_weights."""

from __future__ import annotations

import copy
import io
import json
import random
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from seesr_pack.seesr_modules.weights import open_weights

INDEX = "diffusion_pytorch_model.safetensors.index.json"
NUMBERS = (
    0,
    1,
    2,
    7,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    10**30,
)
NAMES = (
    "",
    ".",
    "..",
    "../a.safetensors",
    "/etc/passwd",
    "C:\\a.safetensors",
    "a/b.safetensors",
    "a\0.safetensors",
    "\ud800",
    "x" * 300 + ".safetensors",
    "link.safetensors",
    "gone.safetensors",
    "a",
    "model.a",
    "__metadata__",
)
RECORDS = ("x", "../x", "/c/data.pkl", "c/constants.pkl", "c/data/0", "c/data.pkl", "d/data.pkl", "c/data/\0")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "F32",
    "F4",
    "I64",
    [],
    {},
    [[]],
    [-1],
    *NUMBERS,
)


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write a damaged file, or a folder of shards, into a folder; return a function that reads it."""
    kind = rng.choice(("a.safetensors", "b.safetensors", "c.pth", "d.pth", "shards"))
    if kind == "shards":
        _make_shards(rng, folder)
        return lambda: read_all(folder)
    data = _originals()[kind]
    forge = {"a.safetensors": forge_header, "b.safetensors": forge_header, "c.pth": forge_archive}.get(kind)
    if forge and rng.random() < 0.6:
        data = forge(rng, data)
    if kind == "d.pth" and rng.random() < 0.6:
        data = _forge_pickle(rng, data)
    elif forge is None or rng.random() < 0.5:
        data = damage(rng, data)
    path = folder / ("damaged" + Path(kind).suffix)
    path.write_bytes(data)
    return lambda: read_all(path)


def read_all(path: Path) -> None:
    """Read every tensor. Its shape must be the described one, and its bytes those that its library reads."""
    weights = open_weights(path)
    expected = _expected_bytes(path, weights.files)
    for dtype in (None, torch.float16):
        for name, tensor in weights.tensors(weights, dtype):
            if tuple(tensor.shape) != weights[name].shape:
                raise AssertionError(f"{name}: {tuple(tensor.shape)} read, {weights[name].shape} described")
            if dtype is None and _bytes_of(tensor) not in expected[name]:
                raise AssertionError(f"{name}: other values were read than the file holds")
            tensor.clone()


def _expected_bytes(path: Path, files: Sequence[Path]) -> dict[str, set[bytes]]:
    """Return the bytes of each tensor by the endings of its name, read without this pack's reader."""
    expected: dict[str, set[bytes]] = defaultdict(set)
    for file in files:
        data = file.read_bytes()
        if data[8:9] == b"{":
            start = 8 + int.from_bytes(data[:8], "little")
            for name, described in json.loads(data[8:start]).items():
                if name != "__metadata__":
                    first, end = described["data_offsets"]
                    _add(expected, name, data[start + first : start + end])
        else:
            _add_tensors(expected, "", torch.load(io.BytesIO(data), _keep_place, weights_only=True))
            if data[:2] == b"PK":  # of some damaged archives, torch reads memory that was never written, unless mapped
                _add_tensors(expected, "", torch.load(file, _keep_place, mmap=True, weights_only=True))
    return expected


def _keep_place(storage: Any, _device: str) -> Any:
    """Leave data on the CPU, wherever the file says that they were."""
    return storage


def _add_tensors(expected: dict[str, set[bytes]], name: str, tree: Any) -> None:
    """Add each tensor of a tree of dicts."""
    if isinstance(tree, torch.Tensor):
        _add(expected, name, _bytes_of(tree))
    elif isinstance(tree, dict):
        for key, value in tree.items():
            _add_tensors(expected, f"{name}.{key}", value)


def _add(expected: dict[str, set[bytes]], name: str, data: bytes) -> None:
    """Add data under every ending of a name, because the reader removes wrappers and prefixes."""
    parts = name.split(".")
    for at in range(len(parts)):
        expected[".".join(parts[at:])].add(data)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@cache
def _originals() -> dict[str, bytes]:
    """Return valid files, to be damaged later."""
    tensors = {
        "a.weight": torch.arange(24.0).reshape(4, 6),
        "a.bias": torch.arange(6, dtype=torch.float16),
        "b.index": torch.arange(5),
        "b.mask": torch.tensor([True, False, True]),
        "c.scale": torch.tensor(2.0, dtype=torch.bfloat16),
        "c.none": torch.zeros(0, 3),
    }
    tree = {
        "params": {**tensors, "a.turned": tensors["a.weight"].t()},
        "epoch": 3,
        "config": {"sizes": [1, 2]},
    }
    names = sorted(tensors)
    shards = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prefixed = {f"model.{name}": value for name, value in tensors.items()}
        save_file(prefixed, folder / "a.safetensors", {"from": "here"})
        save_file(tensors, folder / "b.safetensors")
        torch.save(tree, folder / "c.pth")
        torch.save(tree, folder / "d.pth", _use_new_zipfile_serialization=False)
        for file, members in shards.items():
            save_file({name: tensors[name] for name in members}, folder / file)
        (folder / INDEX).write_text(json.dumps(index))
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(rng: random.Random, data: bytes) -> bytes:
    """Flip, delete, repeat or overwrite bytes, more often near the start and the end."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        end = len(changed)
        at = rng.choice((rng.randrange(end + 1), rng.randrange(min(end, 300) + 1), max(0, end - rng.randrange(1, 300))))
        length = rng.choice((1, 2, 8, 60))
        action = rng.randrange(6)
        if action == 0:
            del changed[at:]
        elif action == 1:
            del changed[at : at + length]
        elif action == 2:
            changed[at:at] = changed[at : at + length]
        elif action == 3:
            changed[at : at + length] = rng.randbytes(length)
        elif action == 4:
            changed[at : at + 8] = (rng.choice(NUMBERS) % 2**64).to_bytes(8, rng.choice(("little", "big")))
        elif at < end:
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def forge_header(rng: random.Random, data: bytes) -> bytes:
    """Change the JSON header of a safetensors file. The length field is mostly right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 3))):
        _forge_json(rng, header)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5)
    action = rng.randrange(8)
    if action == 0 and len(header) > 1:
        first, second = rng.sample(sorted(header), 2)
        text = text.replace(json.dumps(first), json.dumps(second))
    elif action == 1:
        depth = rng.choice((10, 200_000))
        text = "[" * depth + "]" * depth
    elif action == 2:
        text = text.replace("[", "[" + "9" * 5000, 1)
    coded = text.encode("utf-8", "surrogatepass")
    size = len(coded) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    return size.to_bytes(8, "little") + coded + data[8 + length :]


def _forge_json(rng: random.Random, node: Any) -> None:
    """Change one place in a JSON tree."""
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        action = rng.randrange(5)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[rng.choice(NAMES)] = node.pop(key)
        elif action == 2 and isinstance(node, list):
            node.append(rng.choice(NUMBERS))
        elif action == 3 and type(node[key]) is int:
            node[key] += rng.choice((-8, -4, -1, 1, 2, 4, 8))
        else:
            node[key] = copy.deepcopy(rng.choice((*VALUES, *NAMES)))
        return


def forge_archive(rng: random.Random, data: bytes) -> bytes:
    """Rewrite a torch archive with one record changed. The checksums are right."""
    forged = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(forged, "w") as target:
        entries = source.infolist()
        chosen = rng.choice((rng.choice(entries).filename, "c/data.pkl", "c/data.pkl"))
        action = rng.randrange(5)
        for entry in entries:
            name, content = entry.filename, source.read(entry)
            method = zipfile.ZIP_STORED
            if name == chosen:
                if action == 0:
                    continue
                if action == 1:
                    method = zipfile.ZIP_DEFLATED
                elif action == 2:
                    name = rng.choice(RECORDS)
                else:
                    content = _forge_pickle(rng, content) if name.endswith(".pkl") else damage(rng, content)
            target.writestr(name, content, method)
    return forged.getvalue()


def _forge_pickle(rng: random.Random, data: bytes) -> bytes:
    """Change numbers, opcodes and names in the pickle."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        numbers = [at for at in range(min(len(changed), 4000)) if changed[at] in b"KMJ"]
        action = rng.randrange(5)
        if action == 0 and numbers:  # BININT1, BININT2, BININT: another value
            at = rng.choice(numbers)
            width = {75: 1, 77: 2, 74: 4}[changed[at]]
            changed[at + 1 : at + 1 + width] = rng.randbytes(width)
        elif action == 1 and numbers:  # an integer of any size
            at = rng.choice(numbers)
            width = {75: 1, 77: 2, 74: 4}[changed[at]]
            coded = rng.choice(NUMBERS).to_bytes(17, "little")
            changed[at : at + 1 + width] = b"\x8a\x11" + coded
        elif action == 2:
            names = (b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nFloatStorage")
            others = (
                *names,
                b"posix\nsystem",
                b"builtins\nbytearray",
                b"torch\nSize",
                b"torch.storage\nUntypedStorage",
            )
            changed = bytearray(changed.replace(rng.choice(names), rng.choice(others), rng.choice((1, -1))))
        elif action == 3:
            at = rng.randrange(min(len(changed), 4000))
            changed[at] = rng.choice(b"()]}.0120cRbuestaqhjXKMJQ\x80\x85\x86\x87\x88\x89\x8a\x8b\x93")
        else:
            at = rng.randrange(min(len(changed), 4000))
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _make_shards(rng: random.Random, folder: Path) -> None:
    files = {name: _originals()[name] for name in (INDEX, "one.safetensors", "two.safetensors")}
    spoiled = INDEX if rng.random() < 0.8 else rng.choice(("one.safetensors", "two.safetensors"))
    if spoiled == INDEX and rng.random() < 0.8:
        content = json.loads(files[INDEX])
        for _ in range(rng.choice((1, 1, 3))):
            _forge_json(rng, content)
        files[INDEX] = json.dumps(content).encode()
    else:
        files[spoiled] = damage(rng, files[spoiled])
    for name, data in files.items():
        (folder / name).write_bytes(data)
