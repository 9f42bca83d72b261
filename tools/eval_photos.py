#!/usr/bin/env python3
"""Gather photos for ``run.py eval`` from installed packages: ``python tools/eval_photos.py FOLDER``.

The wheels of scikit-image and scikit-learn contain free photographs, seven in colour and five in gray. Nano was not
trained on any of them. Both packages must be installed (requirements/train.txt).
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PHOTOS = {
    "skimage/data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "motorcycle_left.png",
        "rocket.jpg",
        "brick.png",
        "camera.png",
        "coins.png",
        "grass.png",
        "gravel.png",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
"""Folder in a package -> files."""


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it; exit with a sentence if it is missing."""
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"The package {name} is not installed: pip install scikit-image scikit-learn")
    return Path(found.submodule_search_locations[0])


def main(folder: Path) -> None:
    """Copy the photos into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, names in PHOTOS.items():
        package, _, inside = place.partition("/")
        for name in names:
            print(shutil.copyfile(package_folder(package) / inside / name, folder / name))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give one folder: python tools/eval_photos.py FOLDER")
    main(Path(sys.argv[1]))
