"""Gather the photographs that nano was trained on into one folder, from Debian packages and GitHub repositories.

    cd PACKAGES
    apt-get download PACKAGE ...                      (nano/photos.json lists packages and versions)
    git clone https://github.com/OWNER/NAME           (a package OWNER/NAME is a repository;
    git -C NAME checkout VERSION                       its version is a commit)
    python tools/nano_photos.py PACKAGES PHOTOS

PACKAGES is a folder of .deb files (unpacked with ``dpkg-deb``), of unpacked packages and repositories, or of both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).resolve().parents[1] / "nano" / "photos.json"


def place(photos: Iterable[dict[str, Any]], packages: Path, target: Path) -> list[str]:
    """Copy each photo from below ``packages`` into ``target``.

    A photo is a file of a package, or a range of its bytes: some packages keep many photos in one file.

    Returns:
        One line for each photo that is missing or has another SHA-256 than the manifest says.
    """
    target.mkdir(parents=True, exist_ok=True)
    problems = []
    for package, members in groupby(sorted(photos, key=itemgetter("package")), key=itemgetter("package")):
        with tempfile.TemporaryDirectory() as unpacked:
            for archive in packages.glob(f"{package}_*.deb"):
                subprocess.run(["dpkg-deb", "--extract", archive, Path(unpacked) / archive.stem], check=True)
            roots = [
                root for folder in (packages, Path(unpacked)) for root in sorted(folder.iterdir()) if root.is_dir()
            ]
            for photo in members:
                found = next(filter(None, (_content(root / photo["path"], photo) for root in roots)), None)
                if found is None:
                    problems.append(f"{photo['file']}: not in {packages} with its SHA-256; wanted from {package}")
                else:
                    (target / photo["file"]).write_bytes(found)
    return problems


def _content(path: Path, photo: dict[str, Any]) -> bytes | None:
    """Return the photo from a package's file, or None if the file is missing or its SHA-256 differs."""
    if not path.is_file():
        return None
    start, length = photo.get("bytes", (0, path.stat().st_size))
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(length)
    return content if hashlib.sha256(content).hexdigest() == photo["sha256"] else None


def main() -> int:
    """Run the command. Exit code 0 if every photo was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="folder of .deb files, unpacked packages and repositories")
    parser.add_argument("photos", type=Path, help="folder to put the photos in")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="default: nano/photos.json")
    options = parser.parse_args()
    photos = json.loads(options.manifest.read_text(encoding="utf-8"))["photos"]
    problems = place(photos, options.packages, options.photos)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    sys.stdout.write(f"{len(photos) - len(problems)} of {len(photos)} photos are in {options.photos}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
