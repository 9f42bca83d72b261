"""Trying a new tagger on a photo whose tags are known."""

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
"""A photo that every new DAPE is tried on; astronaut.md beside it says where it is from."""


TOO_MANY_TAGS = 100
"""Tags of one photo that only wrong weights give: published ones give some ten."""


_tried: set[tuple[tuple[Path, int], ...]] = set()
"""Files of the taggers that were tried on the photo, and when each was last changed."""


def try_on_photo(dape: DapeModel, files: Iterable[Path]) -> None:
    """Log the tags of a photo, once for each tagger of the published number of classes, and warn of absurd ones.

    Wrong weights under right names and shapes would show nowhere else: they give no tags, or hundreds.

    Args:
        dape: The tagger.
        files: What it was loaded from.
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
    except (OSError, RuntimeError, SeeSRError) as error:  # a tagger is loaded whatever comes of its trial
        logger.warning("Load DAPE: the tagger could not be tried on a photo (%s).", error)
        return
    if 0 < len(tags) < TOO_MANY_TAGS:
        logger.info("Load DAPE: the tags of a photo of an astronaut are: %s.", join_tags(tags))
        return
    logger.warning(
        "Load DAPE: the tagger gives %s tags to a photo of an astronaut, and a sound one some ten: its weights are "
        "wrong or damaged, and so will be the prompts. Fetch RAM and DAPE again with `python run.py download seesr`, "
        "which checks what is there, and pack them again with `python run.py pack`.",
        len(tags) or "no",
    )
