"""Tries each new tagger on a photo with known tags."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ...dape.tags import PUBLISHED_CLASSES, join_tags
from ...errors import SeeSRError
from ..steps.tagging import tag

if TYPE_CHECKING:
    from .dape import DapeModel

logger = logging.getLogger(__name__)


PHOTO = Path(__file__).parents[2] / "dape" / "astronaut.jpg"
"""The photo for the trial; astronaut.md beside it names its source."""

TOO_MANY_TAGS = 100
"""Number of tags for one photo that only wrong weights give; the published weights give about ten."""

_tried: set[tuple[tuple[Path, int], ...]] = set()
"""The files of each tagger that was tried, with their modification times."""


def try_on_photo(dape: DapeModel, files: Iterable[Path]) -> None:
    """Log the tags of a photo, and warn if there are none or too many.

    Wrong weights with the right names and shapes show nowhere else: they give no tags, or hundreds. Each tagger is
    tried once, and only a tagger with the published number of classes.

    Args:
        dape: The tagger.
        files: The files that it was loaded from.
    """
    if len(dape.vocabulary.english) != PUBLISHED_CLASSES:
        return
    try:
        known_as = tuple((file.resolve(), file.stat().st_mtime_ns) for file in files)
        if known_as in _tried:
            return
        _tried.add(known_as)
        with Image.open(PHOTO) as photo:
            pixels = torch.from_numpy(np.array(photo.convert("RGB"))).movedim(-1, 0)[None] / 255
        tags = tag(dape, pixels).tags[0]
    except (OSError, RuntimeError, SeeSRError) as error:  # a failed trial does not stop loading
        logger.warning("Load DAPE: the tagger could not be tried on a photo (%s).", error)
        return
    if 0 < len(tags) < TOO_MANY_TAGS:
        logger.info("Load DAPE: the tags of a photo of an astronaut are: %s.", join_tags(tags))
        return
    logger.warning(
        "Load DAPE: the tagger gives %s tags to a photo of an astronaut, where about ten are normal. Its weights are "
        "wrong or damaged, so the prompts will be wrong, too. Fetch RAM and DAPE again with `python run.py download "
        "seesr`, which checks existing files, and pack them again with `python run.py pack`.",
        len(tags) or "no",
    )
