"""Gather photos for `run.py eval` from scikit-image and scikit-learn: python tools/eval_photos.py FOLDER.

They contain free photographs, seven in colour and five in gray. Nano was not trained on any of them.
"""

from __future__ import annotations

import argparse
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
        sys.exit(f"The package {name} is not installed: {sys.executable} -m pip install scikit-image scikit-learn")
    return Path(found.submodule_search_locations[0])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path, help="folder to put the photos in")
    target = parser.parse_args().folder
    photos = []
    for place, names in PHOTOS.items():
        package, _, inside = place.partition("/")
        photos += [package_folder(package) / inside / name for name in names]
    target.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        print(shutil.copyfile(photo, target / photo.name))


if __name__ == "__main__":
    main()
