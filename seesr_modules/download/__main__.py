"""Run as ``python -m seesr_modules.download`` in the pack's folder, or by path from anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run by path: the way in for a Python that does not look for modules where it is run
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    __package__ = "seesr_modules.download"

from .cli import main

sys.exit(main(sys.argv[1:]))
