"""The manifest of photographs with labels: a JSON file with a vocabulary, photographs and what they show where.

``vocabulary`` is a list of {tag, tag_zh}, ``photos`` one of {file, regions}. A region is {tag, box}, the box in shares
of width and height: left, top, right, bottom. Further keys of a photo: ``split`` (train, or held-out for what is not
trained on), ``sha256``, ``min_shrink`` and ``package``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ..commands.photos.formats import list_photos
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.weights.checkpoint import join_names
from .labels import COMPUTED_TAGS


class _Region(BaseModel):
    tag: str
    box: tuple[float, float, float, float]


class _Photo(BaseModel):
    file: str
    regions: list[_Region]
    split: str = "train"
    sha256: str = ""
    min_shrink: float = Field(default=1, ge=1)
    package: str = ""


class _Word(BaseModel):
    tag: str
    tag_zh: str


class _Manifest(BaseModel):
    vocabulary: list[_Word]
    photos: list[_Photo]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the ``vocabulary`` and ``photos`` of a manifest.

    Raises:
        SeeSRError: The manifest cannot be read, lacks a key, or its vocabulary lacks a tag.
    """
    try:
        manifest = _Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise SeeSRError(
            f"The manifest {path} is wrong at {place}: {first['msg']}; nano/photos.json is one."
        ) from error
    except (OSError, ValueError) as error:
        raise SeeSRError(f"The manifest {path} cannot be read ({error}); nano/photos.json is one.") from error
    needed = {region.tag for photo in manifest.photos for region in photo.regions} | set(COMPUTED_TAGS)
    lacking = sorted(needed - {entry.tag for entry in manifest.vocabulary})
    if lacking:
        raise SeeSRError(f"The manifest {path} lacks tags in its vocabulary: {', '.join(lacking)}. Add them.")
    return manifest.model_dump()


def locate_photos(manifest: Path, folder: Path, photos: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the photos of the manifest, with ``file`` as the path of each.

    Raises:
        SeeSRError: Photos are missing, or a file differs from the manifest's.
    """
    places = {path.name: path for path in list_photos(folder, recursive=True)}
    missing = [photo for photo in photos if photo["file"] not in places]
    if missing:
        names = join_names(_name(photo) for photo in missing)
        remedy = f"Put them there, or take them out of {manifest}."
        if all(photo["package"] for photo in missing):
            remedy = "tools/nano_photos.py gathers nano's."
        raise SeeSRError(
            f"{len(missing)} of the {len(photos)} photos of {manifest} are missing below {folder}: {names}. {remedy}"
        )
    for photo in photos:
        place = places[photo["file"]]
        if photo["sha256"] and hashlib.sha256(place.read_bytes()).hexdigest() != photo["sha256"]:
            remedy = f"Take it from {_source(photo)}."
            raise SeeSRError(
                f"Photo {place} is not the manifest's: its SHA-256 differs. "
                + (remedy if photo["package"] else f"Put the right file there, or correct sha256 in {manifest}.")
            )
    return [{**photo, "file": places[photo["file"]]} for photo in photos]


def _name(photo: dict[str, Any]) -> str:
    """Return a photo's name, with the package that has it."""
    return f"{photo['file']} ({_source(photo)})" if photo["package"] else str(photo["file"])


def _source(photo: dict[str, Any]) -> str:
    """Return what has the photo: a GitHub repository is named with its owner, a Debian package without."""
    kind = "GitHub repository" if "/" in photo["package"] else "Debian package"
    return f"{kind} {photo['package']}"
