"""Make SeeSR, DAPE and nano files with forged names, shapes, dtypes and header texts, and forged tag lists.

Most of these files are well-formed; damaged_files.py damages the format itself. Nearly all values are zero, so the
files are sparse and take little disk space.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.nano import load_nano
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.dape.tags import read_vocabulary
from seesr_pack.seesr_modules.nano.autoencoder import PatchAutoencoder
from seesr_pack.seesr_modules.nano.damage import DamageEstimator
from seesr_pack.seesr_modules.nano.file import NanoFile
from seesr_pack.seesr_modules.nano.photo_decoder import PhotoDecoder
from seesr_pack.seesr_modules.weights.packed_format import FORMAT_KEY, open_dape, packed_vocabulary
from seesr_pack.train.denoiser import SeeSRDenoiser

Header = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> (dtype, shape)."""

MANIFESTS = Path(__file__).resolve().parents[1] / "golden" / "manifests"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
MAX_BYTES = 2**36
"""Largest size of a file. A tensor that would exceed it gets an empty dimension."""
SIZES = (0, 0, 1, 2, 3, 4, 16, 32, 63, 65, 96, 128, 640, 2**16, 2**31, 2**40, 2**47)
SMALL_SIZES = (0, 1, 2, 3, 6, 32, 96, 128, 192)
PARTS = ("", "0", "1", "2", "7", "99", "01", "-1", "x", "\u0663", "\u00b2", "9" * 400, "forward", "training", "weight")
PARTS += ("bias", "attentions", "image_attentions", "resnets", "proj_in", "lora_A", "lora_B", "tag_encoder", "unet")
SIZING = re.compile(r"conv_in|conv_out|conv1|proj_in|attn2.to_k|cond_embedding|label_embed|lora|table|fc1|patch_embed")
TEXTS = ("", "[", "{}", "null", "3", '"a"', "[null]", "[[]]", "[1e999]", "[NaN]", "[true]", "[-1]", "[2]")
TEXTS += (
    '["\\ud800"]',
    "[" * 50_000,
    "[" + "9" * 400 + "]",
    "[" + "9" * 5000 + "]",
    "[0.5, [",
    '["0.5"]',
    '["a", "b"]',
)
VALUES: tuple[Any, ...] = (None, True, "", "a", "nan", "\ud800", [], {}, [0.5], -1, 1.5, 10**400, float("nan"))
LINES = (b"", b"nan", b"inf", b"-1", b"2", b"1e-400", b"1_0", b"\xff\xfe", b"\x00", b"\xc2\x85", b"\xe2\x80\xa8", b"\r")
LINES += (b"\x0b", b"\xef\xbb\xbf", b"a" * 100_000, b"9" * 5000, "\u0661".encode(), b"0.5 0.5", b"0x1", b"\xed\xa0\x80")


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write the files of one model into a folder; return a function that loads the model."""
    kinds = (_seesr, _dape, _packed_words, _tag_lists, _nano)
    return rng.choices(kinds, weights=(6, 6, 4, 4, 1))[0](rng, folder)


@cache
def _originals() -> dict[str, Header]:
    """Return the headers of a minimal SeeSR with every kind of block, a tiny tagger and nano's other parts."""
    with torch.device("meta"):
        seesr = SeeSRDenoiser(EncoderSizes(4, 64, (1,), (1,), (1,), 1, 64)).state_dicts()
    shapes = {part: {name: tuple(tensor.shape) for name, tensor in state.items()} for part, state in seesr.items()}
    for part, manifest in (("ram", "ram_tiny"), ("dape", "dape_lora_tiny")):
        content = json.loads((MANIFESTS / f"{manifest}.json").read_text())
        shapes[part] = {name: tuple(shape) for name, shape in content.items()}
    with torch.device("meta"):
        vae = PatchAutoencoder(4, 8, 2)
        vae.photo_decoder = PhotoDecoder(8, 2)
        for part, network in (("vae", vae), ("damage", DamageEstimator())):
            shapes[part] = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes["text_encoder"] = _text_encoder(64)
    return {part: {name: ("F32", shape) for name, shape in shapes.items()} for part, shapes in shapes.items()}


def _text_encoder(width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a CLIP with one layer and three token embeddings."""
    layer = "encoder.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (3, width),
        "embeddings.position_embedding.weight": (77, width),
        f"{layer}mlp.fc1.weight": (4 * width, width),
        f"{layer}mlp.fc1.bias": (4 * width,),
        f"{layer}mlp.fc2.weight": (width, 4 * width),
        f"{layer}mlp.fc2.bias": (width,),
    }
    for norm in (f"{layer}layer_norm1", f"{layer}layer_norm2", "final_layer_norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for part in "qkv":
        shapes |= {
            f"{layer}self_attn.{part}_proj.weight": (width, width),
            f"{layer}self_attn.{part}_proj.bias": (width,),
        }
    return {**shapes, f"{layer}self_attn.out_proj.weight": (width, width), f"{layer}self_attn.out_proj.bias": (width,)}


def write(path: Path, header: Header, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file of zeros."""
    described: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
    end = 0
    for name, (dtype, shape) in header.items():
        size = math.prod(shape) * BYTES[dtype]
        if end + size > MAX_BYTES:
            shape, size = (*shape, 0), 0
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(described).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def overwrite_sometimes(rng: random.Random, path: Path) -> None:
    """In some files, overwrite a few bytes of the header or of the values, which may become NaN or infinite."""
    if rng.random() < 0.2:
        with path.open("r+b") as file:
            end = 8 + int.from_bytes(file.read(8), "little")
            file.seek(rng.choice((rng.randrange(end), end, end + rng.randrange(10_000))))
            if file.tell() < path.stat().st_size - 8:
                file.write(rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff" * 8, rng.randbytes(4))))


def forge(rng: random.Random, header: Header) -> Header:
    """Change names, shapes or dtypes up to three times."""
    header = dict(header)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3))):
        if header:
            header = rng.choice((_forge_shape, _forge_shape, _forge_names, _forge_width, _forge_dtype))(rng, header)
    return header


def _pick(rng: random.Random, header: Header) -> str:
    """Choose a tensor, preferably one whose shape gives a size of the model."""
    size_tensors = [name for name in header if SIZING.search(name)]
    return rng.choice(size_tensors if size_tensors and rng.random() < 0.7 else list(header))


def _forge_shape(rng: random.Random, header: Header) -> Header:
    name = _pick(rng, header)
    dtype, shape = header[name]
    at = rng.randrange(len(shape) + 1)
    action = rng.randrange(5)
    if action == 0:
        shape = shape[:at]
    elif action == 1:
        shape = (*shape[:at], rng.choice(SIZES), *shape[at:])
    elif action == 2:
        shape = header[rng.choice(list(header))][1]
    else:
        shape = (*shape[:at], rng.choice(SIZES), *shape[at + 1 :])
    return {**header, name: (dtype, shape)}


def _forge_names(rng: random.Random, header: Header) -> Header:
    """Drop, rename or repeat one tensor, or all tensors below a prefix."""
    parts = _pick(rng, header).split(".")
    depth = rng.randrange(1, len(parts) + 1)
    prefix = ".".join(parts[:depth])
    chosen = [name for name in header if name == prefix or name.startswith(prefix + ".")]
    action = rng.randrange(4)
    if action == 0:
        return {name: header[name] for name in header if name not in chosen}
    if action == 1 and rng.random() < 0.2:
        return {name: header[name] for name in chosen}
    part = rng.choice(PARTS)
    if rng.random() < 0.3 and parts[depth - 1].isdecimal():
        part = str(int(parts[depth - 1]) + rng.choice((-1, 1, 1, 90)))
    other = ".".join((*parts[: depth - 1], *rng.choice(((part,), (part,), (parts[depth - 1], part), ()))))
    if action == 2:
        header = {**header, **{(other + name[len(prefix) :])[:450]: header[name] for name in chosen}}
        return {name: header[name] for name in sorted(header, key=lambda _: rng.random())}
    return {((other + name[len(prefix) :]) if name in chosen else name)[:450]: header[name] for name in header}


def _forge_width(rng: random.Random, header: Header) -> Header:
    """Change a width or a rank in all tensors at once."""
    old = rng.choice([size for _, shape in header.values() for size in shape] or [1])
    new = rng.choice(SMALL_SIZES)
    text = "" if rng.random() < 0.5 else ".".join(_pick(rng, header).split(".")[: rng.randrange(1, 4)])
    return {
        name: (dtype, tuple(new if size == old else size for size in shape) if name.startswith(text) else shape)
        for name, (dtype, shape) in header.items()
    }


def _forge_dtype(rng: random.Random, header: Header) -> Header:
    dtype = rng.choice(list(BYTES))
    text = rng.choice(("", _pick(rng, header)))
    return {name: (dtype if name.startswith(text) else old, shape) for name, (old, shape) in header.items()}


def _seesr(rng: random.Random, folder: Path) -> Callable[[], object]:
    headers = {part: _originals()[part] for part in ("unet", "controlnet")}
    if rng.random() < 0.02:
        headers = dict(zip(headers, reversed(headers.values()), strict=True))
    for part in headers:
        if rng.random() < 0.6:
            headers[part] = forge(rng, headers[part])
    layout = rng.choice(("packed", "files", "folders"))
    if layout == "packed":
        packed = {f"{part}.{name}": described for part in headers for name, described in headers[part].items()}
        write(folder / "seesr.safetensors", forge(rng, packed) if rng.random() < 0.2 else packed)
        overwrite_sometimes(rng, folder / "seesr.safetensors")
        return lambda: load_seesr_path(folder / "seesr.safetensors", "float32")
    for part, header in headers.items():
        if layout == "folders":
            (folder / part).mkdir()
        path = folder / (f"{part}.safetensors" if layout == "files" else f"{part}/any.safetensors")
        write(path, header)
        overwrite_sometimes(rng, path)
    return lambda: load_seesr_path(folder, "float32")


def _dape(rng: random.Random, folder: Path) -> Callable[[], object]:
    headers = {part: _originals()[part] for part in ("ram", "dape")}
    if rng.random() < 0.02:
        headers = dict(zip(headers, reversed(headers.values()), strict=True))
    for part in headers:
        if rng.random() < 0.6:
            headers[part] = forge(rng, headers[part])
    metadata = None
    if rng.random() < 0.3:
        metadata = _words(rng, _originals()["ram"]["label_embed"][1][0])
    for part, header in headers.items():
        write(folder / f"{part}.safetensors", header, metadata if part == "ram" else None)
        overwrite_sometimes(rng, folder / f"{part}.safetensors")
    _write_tag_lists(folder, _originals()["ram"]["label_embed"][1][0])
    dape = None if rng.random() < 0.3 else folder / "dape.safetensors"
    return lambda: load_dape_path(folder / "ram.safetensors", dape, "float32")


def _nano(rng: random.Random, folder: Path) -> Callable[[], object]:
    parts = {part: part for part in ("unet", "controlnet", "text_encoder", "vae", "damage")} | {"dape": "ram"}
    header = {f"{part}.{name}": described for part, of in parts.items() for name, described in _originals()[of].items()}
    metadata = {"seesr_nano": "1", "prediction_type": "v_prediction", "known_tokens": "[7, 49407]"}
    for key in metadata:
        if rng.random() < 0.1:
            metadata[key] = rng.choice((*TEXTS, "[7, 49408]", "[7, 7]", "epsilon", "sample"))
    if rng.random() < 0.1:
        del metadata[rng.choice(list(metadata))]
    words = _words(rng, _originals()["ram"]["label_embed"][1][0], 0.3)
    write(folder / "nano.safetensors", forge(rng, header), {**metadata, **words})
    overwrite_sometimes(rng, folder / "nano.safetensors")

    def load() -> None:
        load_nano(folder / "nano.safetensors")
        DamageEstimator.load(NanoFile(folder / "nano.safetensors").damage)

    return load


def _words(rng: random.Random, classes: int, share: float = 1.0) -> dict[str, str]:
    """Return the header texts of a packed DAPE. ``share`` scales how many of them are forged."""
    lists: dict[str, list[Any]] = {key: [f"{key} {i}" for i in range(classes)] for key in ("english", "chinese")}
    lists["thresholds"] = [0.5] * classes
    for values in lists.values():
        if rng.random() < 0.3 * share:
            values[rng.randrange(classes)] = rng.choice(VALUES)
        if rng.random() < 0.1 * share:
            del values[rng.randrange(classes) :]
    names = {"english": "tags_english", "chinese": "tags_chinese", "thresholds": "tag_thresholds"}
    metadata = {names[key]: json.dumps(values) for key, values in lists.items()} | {FORMAT_KEY: "1"}
    for key in list(metadata):
        action = rng.randrange(round(20 / share))
        if action == 0:
            del metadata[key]
        elif action == 1:
            metadata[key] = rng.choice(TEXTS)
        elif action == 2:
            metadata[key] = metadata[key][: rng.randrange(len(metadata[key]))]
    return metadata


def _packed_words(rng: random.Random, folder: Path) -> Callable[[], object]:
    classes = rng.choice((1, 3, 20))
    path = folder / "dape.safetensors"
    metadata: Any = _words(rng, classes)
    if rng.random() < 0.1:  # not a text, as the format requires
        metadata = rng.choice((3, [], None, {**metadata, "tags_english": rng.choice((None, 3, ["a"], {}))}))
    write(path, {"label_embed": ("F32", (classes, 2))}, metadata)

    def load() -> None:
        vocabulary = packed_vocabulary(open_dape(path, None), classes)
        if vocabulary is not None:
            json.dumps(vocabulary.words("english"), ensure_ascii=False).encode()

    return load


def _write_tag_lists(folder: Path, classes: int) -> dict[str, Path]:
    files = {"tags": "ram_tag_list.txt", "thresholds": "ram_tag_list_threshold.txt"}
    files["chinese"] = "ram_tag_list_chinese.txt"
    for kind, name in files.items():
        (folder / name).write_text("0.5\n" * classes if kind == "thresholds" else "word\n" * classes)
    return {kind: folder / name for kind, name in files.items()}


def _tag_lists(rng: random.Random, folder: Path) -> Callable[[], object]:
    classes = rng.choice((1, 3, 20, 4585) if rng.random() < 0.1 else (1, 3, 20))
    files = _write_tag_lists(folder, classes)
    for path in files.values():
        lines = path.read_bytes().split(b"\n")
        action = rng.randrange(8)
        if action < 2:
            lines[rng.randrange(len(lines))] = rng.choice(LINES)
        elif action == 2:
            at = rng.randrange(len(lines))
            lines[at] += rng.choice(LINES)
        elif action == 3:
            lines = [rng.randbytes(rng.randrange(20))]
        elif action == 4 and rng.random() < 0.5:
            path.unlink()
            continue
        path.write_bytes(rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines))
    if rng.random() < 0.3:
        del files["chinese"]
    return lambda: read_vocabulary(**files, num_classes=classes)
