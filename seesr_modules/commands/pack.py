"""Pack the published weights: two files of 1.9 GB together, which load at once, in place of 12 GB.

Without options the files are taken from where `run.py download seesr` puts them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..download.sources import DAPE, RAM, SEESR, TAG_LISTS, Kind, missing_file_message
from ..errors import SeeSRError

if TYPE_CHECKING:
    from ..download.folders import Folders

DTYPES = ("float16", "bfloat16", "float32")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    description, epilog = (__doc__ or "").split("\n\n")
    command = argparse.ArgumentParser(prog="run.py pack", description=description, epilog=epilog)
    add = command.add_argument
    add("--seesr", type=Path, metavar="FOLDER", help="the folder that holds unet and controlnet")
    add("--ram", type=Path, metavar="FILE", help=Path(RAM.path).name)
    add("--dape", type=Path, metavar="FILE", help=Path(DAPE.path).name)
    add("--tags", type=Path, metavar="FOLDER", help="the folder with the tag lists")
    add("--dtype", choices=DTYPES, default="float16", help="how the weights are stored (float16); float32 is exact")
    add("--output", type=Path, metavar="FOLDER", help="where the two files go (ComfyUI's models/seesr)")
    add("--models", type=Path, metavar="DIR", help="a models folder to use in place of ComfyUI's")
    return command


def main(arguments: Sequence[str]) -> int:
    """Pack both files. Exit code 0 done, 2 wrong or missing files, or a folder that cannot be written to."""
    options = parser().parse_args(arguments)
    from ..download.folders import find_folders
    from ..packing import pack_dape, pack_seesr

    try:
        folders = find_folders(options.models)
        seesr = options.seesr or _find(folders, "seesr", Path(SEESR[0].path).parts[0])
        ram = options.ram or _find(folders, RAM.kind, RAM.path)
        dape = options.dape or _find(folders, DAPE.kind, DAPE.path)
        tags = options.tags or _find(folders, TAG_LISTS[0].kind, TAG_LISTS[0].path).parent
        output = options.output or folders["seesr"][0]
        _say(pack_seesr(seesr, options.dtype, output))
        _say(pack_dape(ram, dape, tags, options.dtype, output))
    except SeeSRError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Stopped: nothing unfinished is left behind.\n")
        return 130
    return 0


def _find(folders: Folders, kind: Kind, name: str) -> Path:
    """Return a published file or folder in ComfyUI's model folders, unchecked: opening it tells what it is."""
    found = next((folder / name for folder in folders[kind] if (folder / name).exists()), None)
    if found is None:
        raise SeeSRError(missing_file_message(kind, name))
    return found


def _say(packed: Path) -> None:
    sys.stdout.write(f"{packed} ({packed.stat().st_size / 1e9:.2f} GB)\n")
    sys.stdout.flush()
