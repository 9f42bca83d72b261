"""Pack the published weights: two files of 1.9 GB together, which load at once, in place of 12 GB.

Without options the files are read from the folders that `run.py download seesr` fills. With --onestep one-step models
are packed, which halves them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.published import DAPE, RAM

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
    one_step = "pack one-step models instead, each into one file: these, or osediff.pkl and pisa_sr.pkl in models/seesr"
    add("--onestep", type=Path, nargs="*", metavar="FILE", help=one_step)
    add("--dtype", choices=DTYPES, default="float16", help="how the weights are stored (float16); float32 is exact")
    add("--output", type=Path, metavar="FOLDER", help="where the packed files go (ComfyUI's models/seesr)")
    add("--models", type=Path, metavar="DIR", help="a models folder to use in place of ComfyUI's")
    return command


def main(arguments: Sequence[str]) -> int:
    """Pack the files. Exit code: 0 done; 2 wrong or missing files, or a folder that cannot be written to."""
    command = parser()
    options = vars(command.parse_args(arguments))
    one_step = options.pop("onestep")
    sources = [name for name in ("seesr", "ram", "dape", "tags") if options[name]]
    if one_step is not None and sources:
        command.error(f"--onestep packs one-step models alone: leave out --{sources[0]}")
    from .download.folders import find_folders
    from .download.pack import FULL_MODEL, pack_one_step_files, pack_published

    try:
        folders = find_folders(options.pop("models"))
        if one_step is None:
            pack_published(folders, _say, FULL_MODEL, anew=FULL_MODEL, **options)
        else:
            pack_one_step_files(folders, _say, one_step, options["dtype"], options["output"])
    except SeeSRError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Stopped: nothing unfinished is left behind.\n")
        return 130
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
