"""Import libvips, which reads and writes photographs, or say how to install it. No other module imports it."""

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

# Without this, libvips would answer from its cache after a file of the same name was rewritten.
pyvips.cache_set_max(0)
# Each strip of a damaged file would give a warning of its own. The reader warns once instead.
logging.getLogger("pyvips").setLevel(logging.ERROR)

__all__ = ["REQUIREMENTS", "pyvips"]
