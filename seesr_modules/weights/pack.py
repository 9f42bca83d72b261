"""Making packed weights from published ones, in the memory of a few tensors. See :mod:`.packed_format`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..config import Shapes
from ..dape.config import DapeConfig
from ..dape.tags import TAG_LIST, THRESHOLDS, read_vocabulary, tag_files
from ..dape.weights import DapeWeights, published_name
from ..errors import SeeSRError
from ..published import FETCH_TAGS
from . import WeightFile, open_weights, write_safetensors
from .base_fingerprint import FINGERPRINT_KEY, read_fingerprint, to_json
from .checkpoint import CONTROLNET_PREFIX, UNET_PREFIX, controlnet_names, unet_image_attention_names
from .names import PARTS
from .one_step import open_one_step
from .packed_format import FORMAT, FORMAT_KEY, NAMES, ONE_STEP_KIND, open_seesr_folder, vocabulary_metadata
from .value_checks import cast_checked


def pack_seesr(folder: Path, dtype: str, output: Path) -> Path:
    """Write ``seesr_fp16.safetensors``, or its like in another dtype, from a published SeeSR.

    Args:
        folder: Holds ``unet`` and ``controlnet``.
        dtype: One of ``NAMES``; float32 is exact.
        output: Folder for the file, made if it is missing. A file of that name is replaced.

    Returns:
        The file.

    Raises:
        SeeSRError: The folder holds something else, or the packed file cannot be written.
    """
    unet, controlnet = open_seesr_folder(folder)
    parts = {
        UNET_PREFIX: (unet, unet_image_attention_names(unet.shapes())),
        CONTROLNET_PREFIX: (controlnet, controlnet_names(controlnet.shapes())),
    }
    shapes = {prefix + name: file[name].shape for prefix, (file, names) in parts.items() for name in names}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for prefix, (file, names) in parts.items():
            for name, tensor in file.tensors(names):
                yield prefix + name, cast_checked(tensor, getattr(torch, dtype), prefix + name, repr(folder.name))

    sizes = {"image_attention_parameters": _count(unet, parts[UNET_PREFIX][1])}
    sizes["controlnet_parameters"] = _count(controlnet, parts[CONTROLNET_PREFIX][1])
    sources = {"unet": unet.files, "controlnet": controlnet.files}
    fingerprint = read_fingerprint(unet)
    metadata = {FINGERPRINT_KEY: to_json(fingerprint)} if fingerprint else {}
    return _write("seesr", dtype, output, shapes, tensors(), sizes, sources, metadata)


def pack_dape(ram: Path, dape: Path, tags: Path, dtype: str, output: Path) -> Path:
    """Write ``dape_fp16.safetensors``, or its like in another dtype, from the published RAM, DAPE and tag lists.

    Args:
        ram: ``ram_swin_large_14m.pth``.
        dape: ``DAPE.pth``, or whole merged weights, which are then used instead of RAM's.
        tags: Folder with the tag lists; the Chinese one may be missing.
        dtype: One of ``NAMES``; float32 is exact.
        output: Folder for the file, made if it is missing. A file of that name is replaced.

    Returns:
        The file.

    Raises:
        SeeSRError: A file is of another kind or incomplete, or the packed file cannot be written.
    """
    ram_file, dape_file = open_weights(ram), open_weights(dape)
    for file in (ram_file, dape_file):
        _require_unpacked(file)
    weights = DapeWeights(ram_file, dape_file)
    lists = tag_files(tags)
    if lists is None:
        raise SeeSRError(f"The folder {tags} does not hold the tag lists {TAG_LIST} and {THRESHOLDS}. {FETCH_TAGS}.")
    vocabulary = read_vocabulary(**lists, num_classes=weights.config.num_classes)
    shapes = {published_name(parameter): shape for parameter, shape in weights.shapes.items()}
    if (told := DapeConfig.from_shapes(shapes)) != weights.config:
        raise SeeSRError(
            f"'{ram.name}' cannot be packed: its image size of {weights.config.image_size} px can be read only from "
            f"tensors that packing leaves out, so it would be taken for {told.image_size} px. Use it as it is."
        )
    tensors = ((published_name(parameter), tensor) for parameter, tensor in weights.tensors(getattr(torch, dtype)))
    sources = {"ram": ram_file.files, "dape": dape_file.files, "tags": tuple(lists.values())}
    return _write(
        "dape", dtype, output, shapes, tensors, asdict(weights.config), sources, vocabulary_metadata(vocabulary)
    )


def pack_one_step(path: Path, dtype: str, output: Path) -> Path:
    """Write ``onestep_NAME_fp16.safetensors``, or its like in another dtype, from a published one-step model.

    Args:
        path: ``osediff.pkl``, ``pisa_sr.pkl`` or another file of such a model. Its stem is NAME.
        dtype: One of ``NAMES``; float32 is exact.
        output: Folder for the file, made if it is missing. A file of that name is replaced.

    Returns:
        The file.

    Raises:
        SeeSRError: It is of another kind, incomplete or packed already, or the packed file cannot be written.
    """
    opened = open_one_step(path)
    file, names = opened.file, opened.names
    _require_unpacked(file)
    shapes = {name: file[name].shape for name in names}
    tensors = (
        (name, cast_checked(tensor, getattr(torch, dtype), name, repr(path.name)))
        for name, tensor in file.tensors(names)
    )
    counts = {f"{part}_parameters": _count(file, (n for n in names if n.startswith(f"{part}."))) for part in PARTS}
    sizes = {"model": opened.kind, **counts}
    return _write(f"{ONE_STEP_KIND}_{path.stem}", dtype, output, shapes, tensors, sizes, {"one_step": file.files}, {})


def _require_unpacked(file: WeightFile) -> None:
    if FORMAT_KEY in file.metadata:
        raise SeeSRError(f"'{file.path.name}' is packed already: give the published files.")


def _write(
    kind: str,
    dtype: str,
    output: Path,
    shapes: Shapes,
    tensors: Iterable[tuple[str, Tensor]],
    sizes: Mapping[str, object],
    sources: Mapping[str, tuple[Path, ...]],
    metadata: Mapping[str, str],
) -> Path:
    path = output / f"{kind}_{NAMES[dtype]}.safetensors"
    if path.resolve() in {file.resolve() for files in sources.values() for file in files}:
        raise SeeSRError(f"{path} is itself to be packed: choose another --output.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SeeSRError(f"--output {output} cannot be made a folder ({error.strerror}): choose another.") from error
    made_from = {
        role: [{"file": file.name, "bytes": file.stat().st_size} for file in files] for role, files in sources.items()
    }
    header = {"format": "pt", FORMAT_KEY: FORMAT, "dtype": dtype}
    header |= {"sizes": json.dumps(sizes), "sources": json.dumps(made_from, ensure_ascii=False)}
    write_safetensors(path, shapes, getattr(torch, dtype), tensors, {**header, **metadata})
    return path


def _count(file: WeightFile, names: Iterable[str]) -> int:
    return sum(math.prod(file[name].shape) for name in names)
