"""The embeddings of reference photos. Those of a folder are kept, so that a folder is embedded once.

They are kept in ComfyUI's user folder, not beside the photos: so an archive may be read-only, nothing is added to it,
and a file beside the photos that came from elsewhere is never taken for their embeddings. Each file holds a folder's
embeddings by one tagger. It is found by the tagger's answer to two fixed pictures, since taggers of the same weights in
another type give the same embeddings; a photo is embedded again when its size or its time of change is another.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import comfy.utils
import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import interpolate

from ...dape.tagger import squash
from ...errors import SeeSRError
from ...method.references import PARTS, cut_parts, embedding
from ...weights import write_safetensors
from ..loading.photos import Photo, find_folder, list_photos, note_search, read_photo
from ..loading.tag_trial import PHOTO
from .tagging import BATCH, describe

if TYPE_CHECKING:
    from ..loading.dape import DapeModel

logger = logging.getLogger(__name__)

FORMAT = "seesr_references"
"""The key in a file's header under which its photos are: name, size and time of change of each."""

LAYOUT = "1"
"""Of the files and of the parts of photos. Files of another layout are not used."""

SAME_TAGGER = 0.999
"""Least cosine of two taggers' embeddings of a fixed picture at which their embeddings count as the same. Nano's in
float16 and bfloat16 are above 0.9999 of those in float32; other weights are far below."""

SAVE_EVERY = 1000
"""Photos after which the embeddings so far are saved, so that an interrupted run goes on there."""


@dataclass(frozen=True)
class References:
    """Reference photos with their embeddings.

    ``embeddings`` [photos, parts, width], float16, of length one; perhaps a file that is mapped into memory.
    ``read`` returns a photo [1, 3, H, W] by its number. ``left_out`` names what could not be read.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    read: Callable[[int], Tensor]
    left_out: tuple[str, ...] = ()


def gather_references(dape: DapeModel, folder: str, pictures: Sequence[Tensor], small_things: bool) -> list[References]:
    """Return the references of a folder and of batches of pictures; none if there is neither.

    Args:
        dape: The tagger.
        folder: The name of a folder below ComfyUI's own; empty for none.
        pictures: Batches [B, 3, H, W] in [0, 1].
        small_things: Also embed parts of the references.

    Raises:
        SeeSRError: The folder cannot be read or has no photo.
    """
    parts = PARTS if small_things else 1
    found = [index_folder(dape, find_folder(folder), parts)] if folder.strip() else []
    singles = [picture for batch in pictures for picture in batch.split(1)]
    if singles:
        found.append(index_pictures(dape, singles, parts))
    return found


def index_pictures(dape: DapeModel, pictures: list[Tensor], parts: int) -> References:
    """Embed reference pictures, each [1, 3, H, W] in [0, 1]; ``parts`` is 1 or :data:`..method.references.PARTS`."""
    progress = comfy.utils.ProgressBar(math.ceil(len(pictures) * parts / BATCH))
    rows = torch.stack([row for _, row in _embed(dape, iter(enumerate(pictures)), parts, progress)])
    names = tuple(f"reference {number}" for number in range(1, len(pictures) + 1))
    return References(names, rows, pictures.__getitem__)


def index_folder(dape: DapeModel, folder: Path, parts: int) -> References:
    """Return a folder's references. Photos that are new or have changed are embedded, the rest is read.

    Args:
        dape: The tagger.
        folder: The folder, with links resolved, see :func:`..loading.photos.find_folder`.
        parts: 1, or :data:`..method.references.PARTS` to find small things.

    Raises:
        SeeSRError: No photo in the folder can be read.
    """
    note_search(folder)
    found = list_photos(folder)
    photos, left_out = list(found.photos), list(found.left_out)
    own = _answers(dape)
    place = Path(folder_paths.get_system_user_directory("seesr"), "references", _name_for(folder))
    file, keys, embeddings = _find_kept(place, own, parts)
    if keys != list(map(_key, photos)):
        # A copy, since Windows cannot replace a file that is mapped.
        rows = dict(zip(keys, embeddings.clone(), strict=True))
        del embeddings
        file = file or place / f"{hashlib.sha256(own.numpy().tobytes()).hexdigest()[:16]}-{parts}.safetensors"
        _add(dape, photos, parts, rows, left_out, partial(_save, file, own))
        photos = [photo for photo in photos if _key(photo) in rows]
        if photos:
            embeddings = torch.stack([rows[_key(photo)] for photo in photos])
    if left_out:
        logger.warning("Reference: left out of %s: %s.", folder, name_some(left_out))
    if not photos:
        reasons = f" (left out: {name_some(left_out)})" if left_out else ""
        raise SeeSRError(f"The folder {folder} has no photo that can be read{reasons}: put photos into it.")

    def read(number: int) -> Tensor:
        try:
            return read_photo(photos[number].path)
        except SeeSRError as error:
            raise SeeSRError(f"The reference {photos[number].path} cannot be read any more ({error}).") from error

    return References(tuple(photo.name for photo in photos), embeddings, read, tuple(left_out))


def name_some(left_out: Sequence[str], most: int = 5) -> str:
    """Return the first names of a list, and the number of the rest."""
    rest = len(left_out) - most
    return "; ".join(left_out[:most]) + (f"; and {rest} more" if rest > 0 else "")


Key = tuple[str, int, int]
"""Name, size and time of change of a photo."""


def _key(photo: Photo) -> Key:
    return photo.name, photo.size, photo.modified_ns


def _name_for(folder: Path) -> str:
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def _add(
    dape: DapeModel,
    photos: list[Photo],
    parts: int,
    rows: dict[Key, Tensor],
    left_out: list[str],
    save: Callable[[list[tuple[Key, Tensor]]], None],
) -> None:
    """Embed the photos that ``rows`` lacks into it, and save what is there, also if the run is interrupted."""
    new = [photo for photo in photos if _key(photo) not in rows]
    before = set(rows)

    def read_new() -> Iterator[tuple[Key, Tensor]]:
        for photo in new:
            try:
                yield _key(photo), read_photo(photo.path)
            except SeeSRError as error:
                left_out.append(f"{photo.name} ({error})")

    def save_all() -> None:
        now = [(_key(photo), rows[_key(photo)]) for photo in photos if _key(photo) in rows]
        if {key for key, _ in now} != before:
            save(now)

    progress = comfy.utils.ProgressBar(math.ceil(len(new) * parts / BATCH))
    try:
        for number, (key, row) in enumerate(_embed(dape, read_new(), parts, progress), start=1):
            rows[key] = row
            if number % SAVE_EVERY == 0:
                save_all()
    finally:
        save_all()


Name = TypeVar("Name")


def _embed(
    dape: DapeModel, pictures: Iterator[tuple[Name, Tensor]], parts: int, progress: comfy.utils.ProgressBar
) -> Iterator[tuple[Name, Tensor]]:
    """Yield name and embeddings [parts, width], float16, of named pictures [1, 3, H, W] of any sizes.

    So many pictures are in memory as have whole batches of parts.
    """
    side = dape.patcher.model.config.image_size
    group = BATCH // math.gcd(BATCH, parts)
    while some := list(islice(pictures, group)):
        # Squashed beforehand, so that pictures of all sizes share a forward pass.
        stack = [squash(part, side) for _, picture in some for part in cut_parts(picture, parts)]
        rows = embedding(describe(dape, stack, progress)[0]).half().cpu().unflatten(0, (len(some), parts))
        yield from zip((name for name, _ in some), rows, strict=True)


def _answers(dape: DapeModel) -> Tensor:
    """Return the tagger's embeddings [2, width] of a photo and of the same one degraded, which tell taggers apart."""
    photo = read_photo(PHOTO)
    small = interpolate(photo, (48, 48), mode="bilinear", antialias=True)
    return embedding(describe(dape, [photo, small])[0]).cpu()


def _find_kept(place: Path, own: Tensor, parts: int) -> tuple[Path | None, list[Key], Tensor]:
    """Return the file with embeddings by this tagger, its photos and their embeddings; or no file, and none."""
    for file in sorted(place.glob("*.safetensors")) if place.is_dir() else ():
        try:
            with safe_open(file, "pt") as content:
                theirs, rows = content.get_tensor("tagger"), content.get_tensor("embeddings")
                told = content.metadata()
            keys = [(str(name), int(size), int(changed)) for name, size, changed in json.loads(told[FORMAT])]
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            logger.warning("Reference: %s cannot be read and is not used (%s).", file, error)
            continue
        fits = told.get("version") == LAYOUT and rows.shape == (len(keys), parts, own.shape[1])
        if fits and theirs.shape == own.shape and (theirs.float() * own).sum(-1).min() >= SAME_TAGGER:
            return file, keys, rows
    return None, [], torch.zeros(0, parts, own.shape[1], dtype=torch.float16)


def _save(file: Path, own: Tensor, rows: list[tuple[Key, Tensor]]) -> None:
    """Write the embeddings. A folder that cannot be written to is logged; the embeddings then serve this run alone."""
    if not rows:
        return
    embeddings = torch.stack([row for _, row in rows])
    tensors = {"tagger": own.half(), "embeddings": embeddings}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    told = {"version": LAYOUT, FORMAT: json.dumps([key for key, _ in rows])}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(file, shapes, torch.float16, tensors.items(), told)
    except (OSError, SeeSRError) as error:
        logger.warning("Reference: the embeddings of the references cannot be kept (%s).", error)
