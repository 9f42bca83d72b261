"""Feed damaged and forged weight files to open_weights: each must load or end in one SeeSRError.

    python tests/fuzz/fuzz_weight_file.py --files 100000 --seed 1

Each file depends only on the seed and its number, so `--files 1 --first N` makes file N again. The files are
read in child processes: one that dies or hangs is reported by number, and the run goes on after it.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import multiprocessing
import random
import re
import shutil
import sys
import tempfile
import time
import types
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

if "seesr_pack" not in sys.modules:  # run as a program: give the pack its name, without its host
    pack = types.ModuleType("seesr_pack")
    pack.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules[pack.__name__] = pack

from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weight_file import open_weights

FILES_PER_CHILD = 2500
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


@dataclass
class Tally:
    """What became of the files."""

    tried: int = 0
    loaded: int = 0
    sentences: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    growth_mib: float = 0.0

    def add(self, other: Tally) -> None:
        """Count another tally in."""
        self.tried += other.tried
        self.loaded += other.loaded
        self.sentences += other.sentences
        self.crashes += other.crashes
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.growth_mib = max(self.growth_mib, other.growth_mib)


def fuzz(first: int, stop: int, seed: int, folder: Path, watch: Callable[[int], None] = lambda _: None) -> Tally:
    """Make and read the files `first` to `stop` in a folder; `watch` is told the number of each."""
    tally = Tally()
    originals = _originals(folder / "originals")
    base_mib = 0.0
    for number in range(first, stop):
        watch(number)
        rng = random.Random(f"{seed}-{number}")
        path = _make(rng, originals, folder)
        started = time.perf_counter()
        try:
            _read_all(path)
            tally.loaded += 1
        except SeeSRError as error:
            tally.sentences[_sentence(str(error), folder)] += 1
        except Exception as error:
            tally.crashes.append(f"file {number}: {type(error).__name__}: {error}")
        tally.slowest_s = max(tally.slowest_s, time.perf_counter() - started)
        tally.tried += 1
        if tally.tried == 100:
            base_mib = _peak_mib()
    tally.growth_mib = _peak_mib() - base_mib if base_mib else 0.0
    return tally


def _read_all(path: Path) -> None:
    weights = open_weights(path)
    for dtype in (None, torch.float16):
        for name, tensor in weights.tensors(weights, dtype):
            if tuple(tensor.shape) != weights[name].shape:
                raise AssertionError(f"{name}: {tuple(tensor.shape)} read, {weights[name].shape} described")
            tensor.clone()


def _sentence(message: str, folder: Path) -> str:
    """Return a message without what differs from file to file."""
    words = message.replace(str(folder), "").replace("'", '"').split('"')
    return re.sub(r"-?\d+", "#", re.sub(r"code \(.*\)", "code", "...".join(words[::2])))[:110]


def _peak_mib() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the files ---------------------------------------------------------------------------------------


def _originals(folder: Path) -> Path:
    """Write the valid files that are then damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shards").mkdir(parents=True)
    tensors = {
        "a.weight": torch.arange(24.0).reshape(4, 6),
        "a.bias": torch.arange(6, dtype=torch.float16),
        "b.index": torch.arange(5),
        "b.mask": torch.tensor([True, False, True]),
        "c.scale": torch.tensor(2.0, dtype=torch.bfloat16),
        "c.none": torch.zeros(0, 3),
    }
    save_file(
        {f"model.{name}": value for name, value in tensors.items()},
        folder / "a.safetensors",
        {"from": "here"},
    )
    save_file(tensors, folder / "b.safetensors")
    tree = {
        "params": {**tensors, "a.turned": tensors["a.weight"].t()},
        "epoch": 3,
        "config": {"sizes": [1, 2]},
    }
    torch.save(tree, folder / "c.pth")
    torch.save(tree, folder / "d.pth", _use_new_zipfile_serialization=False)
    names = sorted(tensors)
    shards = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / "shards" / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "shards" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _make(rng: random.Random, originals: Path, folder: Path) -> Path:
    """Write one damaged file or folder and return its path."""
    kind = rng.choice(("a.safetensors", "b.safetensors", "c.pth", "d.pth", "shards"))
    if kind == "shards":
        return _make_shards(rng, originals / kind, folder / "shards")
    data = (originals / kind).read_bytes()
    shape = {"a.safetensors": _forge_header, "b.safetensors": _forge_header, "c.pth": _forge_archive}.get(kind)
    if shape and rng.random() < 0.6:
        data = shape(rng, data)
    if kind == "d.pth" and rng.random() < 0.6:
        data = _forge_pickle(rng, data)
    elif shape is None or rng.random() < 0.5:
        data = _damage(rng, data)
    path = folder / ("damaged" + Path(kind).suffix)
    path.write_bytes(data)
    return path


def _damage(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat or overwrite bytes, more often near the start and the end."""
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


def _forge_header(rng: random.Random, data: bytes) -> bytes:
    """Change the JSON header of a safetensors file and keep its length field right, mostly."""
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
    """Change one place of a JSON tree."""
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
            node[key] = rng.choice((*VALUES, *NAMES))
        return


def _forge_archive(rng: random.Random, data: bytes) -> bytes:
    """Write the records of a torch archive again with one of them changed, checksums right."""
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
                    content = _forge_pickle(rng, content) if name.endswith(".pkl") else _damage(rng, content)
            target.writestr(name, content, method)
    return forged.getvalue()


def _forge_pickle(rng: random.Random, data: bytes) -> bytes:
    """Swap numbers, opcodes and names in the pickled part."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        numbers = [at for at in range(min(len(changed), 4000)) if changed[at] in b"KMJ"]
        action = rng.randrange(5)
        if action == 0 and numbers:  # BININT1, BININT2, BININT: another value
            at = rng.choice(numbers)
            width = {75: 1, 77: 2, 74: 4}[changed[at]]
            changed[at + 1 : at + 1 + width] = rng.randbytes(width)
        elif action == 1 and numbers:  # a whole number of any size
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


def _make_shards(rng: random.Random, original: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if rng.random() < 0.2:
        index.write_bytes(_damage(rng, index.read_bytes()))
    elif rng.random() < 0.2:
        shard = folder / rng.choice(("one.safetensors", "two.safetensors"))
        shard.write_bytes(_damage(rng, shard.read_bytes()))
    else:
        content = json.loads(index.read_text())
        for _ in range(rng.choice((1, 1, 3))):
            _forge_json(rng, content)
        index.write_text(json.dumps(content))
    return folder


# --- the run -----------------------------------------------------------------------------------------


def _child(first: int, stop: int, seed: int, seconds: float, current: Any, results: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def watch(number: int) -> None:
        current.value = number
        faulthandler.dump_traceback_later(seconds, exit=True)

    with tempfile.TemporaryDirectory() as folder:
        results.put(fuzz(first, stop, seed, Path(folder), watch))


def run(first: int, stop: int, seed: int, seconds: float) -> Tally:
    """Read the files in child processes, each of which may die."""
    context = multiprocessing.get_context("spawn")
    total = Tally()
    while first < stop:
        current, results = context.Value("q", first), context.SimpleQueue()
        last = min(stop, first + FILES_PER_CHILD)
        child = context.Process(target=_child, args=(first, last, seed, seconds, current, results))
        child.start()
        child.join()
        if child.exitcode == 0:
            total.add(results.get())
        else:
            last = current.value + 1
            total.add(
                Tally(
                    tried=last - first,
                    crashes=[f"file {current.value}: the process ended ({child.exitcode})"],
                )
            )
        first = last
        print(f"{total.tried} files, {total.loaded} loaded, {len(total.crashes)} crashes", file=sys.stderr)
    return total


def main() -> int:
    """Run from the command line; the exit status is 1 where anything but a SeeSRError came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for one file before it counts as hanging")
    args = parser.parse_args()
    tally = run(args.first, args.first + args.files, args.seed, args.seconds)
    for sentence, count in tally.sentences.most_common():
        print(f"{count:7d}  {sentence}")
    print(
        f"{tally.tried} files: {tally.loaded} loaded, {sum(tally.sentences.values())} refused "
        f"({len(tally.sentences)} sentences), {len(tally.crashes)} crashes; "
        f"slowest {tally.slowest_s:.2f} s, peak memory grew by {tally.growth_mib:.0f} MiB"
    )
    for crash in tally.crashes:
        print(crash)
    return 1 if tally.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
