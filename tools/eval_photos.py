#!/usr/bin/env python3
"""Gather photos for ``run.py eval`` from installed packages: ``python tools/eval_photos.py FOLDER``.

scikit-image and scikit-learn carry photographs in their wheels, free to use, and none of them was trained on:
seven in colour and five in gray. Both must be installed where this runs (requirements/train.txt).
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
    """Return the folder of an installed package, which is not imported; end with a sentence where there is none."""
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
