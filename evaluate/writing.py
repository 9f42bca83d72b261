"""The files of a comparison, and the checks that they can be written before hours of work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from ..seesr_modules.disk import require_free
from ..seesr_modules.errors import SeeSRError

if TYPE_CHECKING:
    from PIL.Image import Image

    from .photos import Photo, Pixels


class Output:
    """Where the files go.

    Attributes:
        folder: For the pictures, one folder for each method, and for the files without a place of their own.
        scores: The JSON file.
        sheet: The contact sheet.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        """Read the options, make the folders and try to write into each.

        Raises:
            SeeSRError: A folder cannot be written to.
        """
        self.folder: Path = options.output
        self.scores: Path = options.json or self.folder / "scores.json"
        self.sheet: Path = options.sheet or self.folder / "sheet.png"
        for folder in {self.folder, self.scores.parent, self.sheet.parent}:
            with telling_write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with NamedTemporaryFile(dir=folder):
                    pass

    def require_room(self, photos: list[Photo], methods: int) -> None:
        """Check that the disk has room for the pictures of so many methods.

        Raises:
            SeeSRError: It has not.
        """
        needed = sum(photo.clean.size + photo.degraded.size for photo in photos) * (methods + 2)
        require_free(self.folder, needed, " with --output")

    def keep(self, method: str, photo: str, picture: Pixels) -> None:
        """Write the picture of a method and a photo, whole or not at all.

        Raises:
            SeeSRError: It cannot be written.
        """
        from PIL import Image as Pictures

        file = self.folder / method / f"{photo}.png"
        part = file.with_name(f"{file.name}.part")
        with telling_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                Pictures.fromarray(picture).save(part, "png")
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)

    def write_sheet(self, sheet: Image) -> None:
        """Write the contact sheet, and print its path.

        Raises:
            SeeSRError: It cannot be written.
        """
        with telling_write_errors(self.sheet):
            sheet.save(self.sheet)
        sys.stdout.write(f"{self.sheet}\n")

    def write(self, file: Path, text: str) -> None:
        """Write a text file, and print its path.

        Raises:
            SeeSRError: It cannot be written.
        """
        with telling_write_errors(file):
            file.write_text(text, "utf-8", "backslashreplace")  # a name may be no text
        sys.stdout.write(f"{file}\n")


@contextmanager
def telling_write_errors(path: Path) -> Iterator[None]:
    """Turn the system's error into a sentence.

    Raises:
        SeeSRError: The system raised one.
    """
    try:
        yield
    except OSError as error:
        raise SeeSRError(
            f"{path} cannot be written ({error.strerror or error}): make room or give yourself the right to, or name "
            "another folder with --output. What was written before is kept."
        ) from error
