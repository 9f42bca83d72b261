"""The command ``download``: parse the request, look for files that are there, fetch the others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.published import CATALOGUE, Catalogue, PublishedFile
from .fetch import NoConnectionError, fetch, find, host_of, old_path, require_space, target_path
from .folders import Folders, find_folders

_DEFAULT_TARGETS = ("seesr", "base")


def main(argv: Sequence[str], catalogue: Catalogue = CATALOGUE) -> int:
    """Fetch the files that the command line asks for.

    Args:
        argv: The arguments, without the program's name.
        catalogue: Target -> files.

    Returns:
        0 done; 1 a file could not be fetched or packed (a sentence on stderr says which and why); 2 wrong usage.
    """
    parser = _parser(catalogue)
    try:
        args = parser.parse_args(argv)
        if unknown := [target for target in args.targets if target not in catalogue]:
            parser.error(f"unknown target {unknown[0]!r}: choose from {', '.join(catalogue)}")
    except SystemExit as exit_:  # argparse has printed the usage
        return int(exit_.code or 0)
    targets = args.targets or _DEFAULT_TARGETS
    files = list(dict.fromkeys(file for target in targets for file in catalogue[target]))
    try:
        folders = find_folders(args.models, args.comfyui)
        if args.pack:
            return _fetch_and_pack(files, folders, args)
        if args.dry_run:
            _show(files, folders)
            return 0
        return int(_fetch_all(files, folders, args.accept_license) is None)
    except SeeSRError as error:
        return _fail(str(error))
    except OSError as error:  # a folder that cannot be listed; fetching reports its own errors
        return _fail(f"{error.filename} cannot be read ({error.strerror}): choose another folder with --models.")
    except KeyboardInterrupt:
        return _fail("Stopped. What has arrived is kept: run the same command again to go on.")


def _parser(catalogue: Catalogue) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py download",
        description="Fetch the published weights into ComfyUI's model folders. Files that are there are kept.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"{', '.join(catalogue)} (default: {' '.join(_DEFAULT_TARGETS)})",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be fetched, packed and deleted")
    parser.add_argument(
        "--pack",
        action="store_true",
        help="then pack SeeSR, DAPE and OSEDiff into a small file each, as `run.py pack` does, and delete what was "
        "packed; what is packed already is not fetched",
    )
    parser.add_argument("--keep", action="store_true", help="with --pack: delete nothing")
    parser.add_argument("--accept-license", action="store_true", help="accept the licences that ask for it")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--models", type=Path, metavar="DIR", help="the models folder to fill")
    where.add_argument("--comfyui", type=Path, metavar="DIR", help="ComfyUI's folder (default: COMFYUI_PATH)")
    return parser


def _fetch_and_pack(files: list[PublishedFile], folders: Folders, args: argparse.Namespace) -> int:
    """Fetch files that are not packed yet, pack them, and delete the files that the packed ones replace."""
    from . import pack  # loads torch, which fetching does without
    from .replaced import delete, list_replaced

    parts = pack.parts_of(files)
    kinds = pack.kinds_of(parts)
    parts = {kind: parts[kind] for kind in kinds}
    there = {kind for kind in kinds if pack.find_packed(folders, kind)}
    wanted = [file for file in files if not any(file in parts[kind] for kind in there)]
    packed_bytes = sum(pack.PACKED_BYTES[kind] for kind in kinds if kind not in there)
    if args.keep:
        parts = {}
    packable = [kind for kind in parts if kind not in there or pack.can_pack(folders, kind)]

    if args.dry_run:
        missing = _show(wanted, folders)
        coming = {target_path(file, folders): file.planned_bytes for file in missing}
        _say(f"To pack: {_in_words(packed_bytes)}, into {folders['seesr'][0]}")
        freed = 0
        for kind in packable:
            for path in list_replaced(parts[kind], folders, coming, _say, look=False):
                freed += coming.get(path) or path.stat().st_size
                _say(f"To delete once it is packed: {path}")
        to_come = sum(coming.values()) + packed_bytes
        _say(f"Disk space: {_in_words(to_come)} are needed, and {_in_words(freed)} become free by deleting")
        return 0
    fetched = _fetch_all(wanted, folders, args.accept_license, packed_bytes)
    if fetched is None:
        return _fail("Nothing was packed: run the same command again once everything can be fetched.")
    spare = {kind: list_replaced(parts[kind], folders, fetched, _say) for kind in packable}
    pack.pack_published(folders, _say, kinds, anew=[kind for kind, paths in spare.items() if paths])
    for paths in spare.values():
        delete(paths, folders, _say)
    return 0


def _fetch_all(files: list[PublishedFile], folders: Folders, accepted: bool, packed_bytes: int = 0) -> set[Path] | None:
    """Fetch files that no folder has; return the fetched ones, or None if a file could not be fetched."""
    wanted, fetched, failed = [], set(), False
    for file in files:
        if found := find(file, folders, _say):
            _say(f"{file.title}: have {found}")
        elif file.licence.must_accept and not accepted:
            _fail(
                f"{file.title} is not fetched: read its licence, the {file.licence.name} "
                f"({file.licence.url}), and add --accept-license if you accept it."
            )
            failed = True
        else:
            wanted.append(file)
    if wanted and constants.HF_HUB_OFFLINE:
        names = ", ".join(file.title for file in wanted)
        _fail(f"HF_HUB_OFFLINE is set, so these cannot be fetched: {names}; unset it and run again.")
        return None
    require_space(wanted, folders, packed_bytes)
    unreachable: set[str] = set()
    cut_off = []
    for file in wanted:
        try:
            path = fetch(file, folders, _say, unreachable)
            fetched.add(path)
            _say(f"{file.title}: done, {path}")
        except NoConnectionError:
            cut_off.append(file)
        except SeeSRError as error:
            _fail(str(error))
            failed = True
    if cut_off:
        hosts = dict.fromkeys(host_of(source) for file in cut_off for source in file.sources)
        titles = ", ".join(file.title for file in cut_off)
        _fail(f"No connection to {', '.join(hosts)}: not fetched are {titles}. Run the same command again to go on.")
    return None if failed or cut_off else fetched


def _show(files: list[PublishedFile], folders: Folders) -> list[PublishedFile]:
    """Print whether each file is there, its size, sources and licence; return the files to fetch."""
    missing = []
    for file in files:
        target = target_path(file, folders)
        state = "have"
        found = find(file, folders, _say)
        if not found:
            missing.append(file)
            state = f"would be replaced, and kept as {old_path(target).name}" if target.exists() else "missing"
        about = "" if file.size_bytes is not None else "about "
        accept = ", to be accepted with --accept-license" if file.licence.must_accept else ""
        _say(f"{file.title}: {state}")
        _say(f"  file     {found or target}")
        _say(f"  size     {about}{_in_words(file.planned_bytes)}")
        _say(f"  from     {', else '.join(dict.fromkeys(source.page for source in file.sources))}")
        _say(f"  licence  {file.licence.name}, {file.licence.url}{accept}")
    _say(f"To fetch: {_in_words(sum(file.planned_bytes for file in missing))}")
    return missing


def _in_words(size_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.2f} {unit}"
    return f"{size_bytes} bytes"


def _say(line: str) -> None:
    print(line, flush=True)


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return 1
