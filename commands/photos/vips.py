"""libvips, which reads and writes the photographs: imported here alone, with a remedy where it is missing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from ...seesr_modules.errors import SeeSRError

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "photos.txt"

try:
    import pyvips
except (ImportError, OSError) as error:
    raise SeeSRError(
        f"Photos cannot be read without the package pyvips ({error}): {sys.executable} -m pip install -r {REQUIREMENTS}"
    ) from error

# libvips would otherwise answer from its cache after a file of the same name was written anew.
pyvips.cache_set_max(0)
# Each strip of a damaged file would be a warning of its own: what it means is said once, by the reader.
logging.getLogger("pyvips").setLevel(logging.ERROR)

__all__ = ["REQUIREMENTS", "pyvips"]
