"""What is given to workers, and what they answer. All of it can be pickled."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from ..films.shots import Shot
from ..films.upscaling import Manner
from .ledger import Unnamed


@dataclass(frozen=True)
class PhotoTask:
    """A photo to upscale.

    Attributes:
        key: Number of the photo in the run.
        photo: Absolute path or URL of the photo.
        staging: Folder for unfinished files, a path or a URL.
        finished: Number of a picture, from 1 -> path or URL of its result, which is there.
        uncompared: Numbers of finished pictures whose comparison is missing.
    """

    key: int
    photo: str
    staging: str
    finished: Mapping[int, str] = field(default_factory=dict)
    uncompared: Set[int] = frozenset()


@dataclass(frozen=True)
class ShotTask:
    """A shot of a film to upscale.

    Attributes:
        key: Number of the film in the run.
        shot: The shot, with the absolute path of its film.
        staging: Folder for unfinished files.
        name: What its file is to be called.
        manner: How to upscale it.
    """

    key: int
    shot: Shot
    staging: str
    name: str
    manner: Manner


Task = PhotoTask | ShotTask


@dataclass
class TaskOutcome:
    """What a worker made of a photo or a shot.

    Attributes:
        status: What became of it.
        written: The files, in the order in which they were written.
        pictures: How many results the photo has.
        frames: How many pictures a result has.
        seconds: How long it took.
        reason: Why it failed.
        disk_is_full: Whether it failed because nothing more can be written.
        warnings: What is to be told about it.
    """

    status: str = "failed"
    written: list[Unnamed] = field(default_factory=list)
    pictures: int = 1
    frames: int = 1
    seconds: float = 0.0
    reason: str = ""
    disk_is_full: bool = False
    warnings: list[str] = field(default_factory=list)
