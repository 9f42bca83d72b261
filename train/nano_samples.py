"""Pairs of pictures with the latents that nano samples for them, kept in a folder: making them takes longer than using.

A file holds ``_ROWS`` pairs: ``clean``, ``degraded`` and ``latent``.
"""

from __future__ import annotations

import json
import logging
import random
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..seesr_modules.config import LATENT_PX
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.sizes import resize_bicubic
from .config import PhotoDecoderSettings, PhotoSettings
from .diffusion import SeeSRStage
from .output import telling_full_disk
from .pairs import Pair, pool_settings, to_float

_ROWS = 8
_SETTINGS = "settings.json"
_KEPT_FILES = 2000
"""Files that stay in memory, at 1 MB each."""

logger = logging.getLogger(__name__)


class NanoSamples(Dataset[Pair]):
    """Endless crops: ``clean`` uint8 [3,S,S], ``hint`` float [3,S,S] in [0,1], ``latent`` [C,S/8,S/8]."""

    def __init__(self, settings: PhotoDecoderSettings, photos: PhotoSettings, seed: int) -> None:
        """Remember the files of the folder; :meth:`make_missing` makes those that are not there.

        Raises:
            SeeSRError: The folder was made with other settings.
        """
        count = -(-settings.sample_count // _ROWS)
        self.files = [settings.samples / f"{number:05d}.pt" for number in range(count)]
        self._settings, self._seed, self._crop_px = settings, seed, settings.crop_px
        asked = {**pool_settings(photos, seed), "steps": settings.steps, "fidelity": settings.fidelity}
        text = json.dumps(asked, sort_keys=True)
        kept = settings.samples / _SETTINGS
        settings.samples.mkdir(parents=True, exist_ok=True)
        if kept.exists() and kept.read_text("utf-8") != text:
            raise SeeSRError(f"model.samples: {settings.samples} was made with other settings: name another folder.")
        kept.write_text(text, "utf-8")

    def make_missing(self, seesr: SeeSRStage) -> None:
        """Sample latents for the files that are not there; ``seesr`` has the pairs, and samples."""
        missing = [(number, path) for number, path in enumerate(self.files) if not path.exists()]
        for done, (number, path) in enumerate(missing):
            logger.info("samples: file %d of %d", done + 1, len(missing))
            pairs = [seesr.pairs[number * _ROWS + row] for row in range(_ROWS)]
            made = {name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]}
            made["latent"] = self._sample(seesr, made, number).half()
            part = path.with_suffix(".part")
            with telling_full_disk(path.parent):
                torch.save(made, part)
            part.replace(path)

    def _sample(self, seesr: SeeSRStage, batch: Pair, number: int) -> Tensor:
        draw = random.Random(f"{self._seed}/{number}/sampled")
        steps, fidelity = draw.choice(self._settings.steps), draw.choice(self._settings.fidelity)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        like = seesr.autoencoder.encode(to_float(batch["clean"]))
        noise = torch.randn(like.shape, generator=generator)
        return seesr.restore(batch, steps, noise, fidelity)

    def __len__(self) -> int:
        """Return more than any run draws."""
        return 1 << 40

    def __getitem__(self, index: int) -> Pair:
        """Return the crop of an index."""
        draw = random.Random(f"{self._seed}/{index}")
        made = _read(self.files[draw.randrange(len(self.files))])
        row = draw.randrange(_ROWS)
        clean = made["clean"][row]
        side = clean.shape[-1]
        hint = resize_bicubic(to_float(made["degraded"][row : row + 1]), side, side)[0]
        top, left = (LATENT_PX * draw.randint(0, (side - self._crop_px) // LATENT_PX) for _ in range(2))
        bottom, right = top + self._crop_px, left + self._crop_px

        def cut(picture: Tensor, px: int = 1) -> Tensor:
            return picture[:, top // px : bottom // px, left // px : right // px]

        return {
            "clean": cut(clean),
            "hint": cut(hint),
            "latent": cut(made["latent"][row], LATENT_PX).float(),
        }


@lru_cache(_KEPT_FILES)
def _read(path: Path) -> Pair:
    made: Pair = torch.load(path, weights_only=True)
    return made
