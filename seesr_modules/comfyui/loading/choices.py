"""The files behind the choices of Load SeeSR and Load DAPE: behind a name, and behind ``auto``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...dape.tags import TAG_LIST, THRESHOLDS, tag_files
from ...errors import SeeSRError
from ...published import (
    DAPE,
    FETCH_AND_PACK,
    FETCH_SEESR,
    FETCH_TAGS,
    LISTS_BY_HAND,
    PUBLISHED_SEESR,
    RAM,
    SEESR_BY_HAND,
    TAGGER_BY_HAND,
)
from ...weights.packed_format import (
    SEESR_PARTS,
    is_named_as_packed,
    is_packed_dape,
    missing_parts,
    seesr_parts,
)
from .folders import RAMS, SEESR, find, ram_choices, require_model, roots, seesr_choices

AUTO = "auto"
"""First choice of both loaders: the model that is there. A packed one is preferred to the published one."""

PLAIN_RAM = "none"
"""Choice in the DAPE slot for plain RAM, without DAPE's LoRA."""

_FETCH_SEESR = f"{FETCH_SEESR}, or {SEESR_BY_HAND}"


def find_seesr(seesr: str) -> Path:
    """Return the folder or packed file for a choice of Load SeeSR: a name under ``models/seesr``, or ``auto``.

    ``auto`` takes the first packed file, else the published folder, else the only folder, else the only file.

    Raises:
        SeeSRError: It is missing or incomplete, or ``auto`` finds several.
    """
    if seesr == AUTO:
        return _choose_seesr()
    path = require_model("seesr", seesr, _FETCH_SEESR)
    if path.is_dir() and (missing := missing_parts(path)):
        raise SeeSRError(f"Load SeeSR: {missing} {_FETCH_SEESR}")
    return path


def find_tagger(ram: str, dape: str) -> tuple[Path, Path | None]:
    """Return the files for the choices of Load DAPE: names under ``models/rams`` or ``models/seesr``, or ``auto``.

    Args:
        ram: A RAM or a packed DAPE. ``auto`` takes the first packed DAPE, else the published RAM, else the only file
            that may be a RAM.
        dape: A DAPE, or :data:`PLAIN_RAM`. ``auto`` takes none beside a packed DAPE, else the published one.

    Returns:
        The RAM or packed DAPE, and the DAPE if one is to be merged.

    Raises:
        SeeSRError: A file or a tag list is missing, or ``auto`` finds several.
    """
    ram_path = _choose_ram() if ram == AUTO else _require_tagger("ram", ram)
    is_packed = ram_path is not None and is_packed_dape(ram_path)
    if dape == AUTO and is_packed:
        dape = PLAIN_RAM
    dape_path = None
    if dape == AUTO:
        dape_path = find(DAPE.path, RAMS, SEESR)
    elif dape != PLAIN_RAM:
        dape_path = _require_tagger("dape", dape)
    slots = (("ram", ram, ram_path), ("dape", dape, dape_path))
    missing = [slot for slot, choice, path in slots if choice == AUTO and path is None]
    if missing or ram_path is None:
        raise SeeSRError(_tell_no_tagger(missing))
    if not is_packed:
        find_tag_lists([path.parent for path in (ram_path, dape_path) if path])
    return ram_path, dape_path


def tagger_files(ram: str, dape: str) -> list[Path]:
    """Return the files that Load DAPE reads: those of :func:`find_tagger`, and the tag lists if none are packed."""
    paths = [path for path in find_tagger(ram, dape) if path]
    lists = {} if is_packed_dape(paths[0]) else find_tag_lists([path.parent for path in paths])
    return [*paths, *lists.values()]


def find_tag_lists(beside: list[Path]) -> dict[str, Path]:
    """Return the tag lists, as arguments of :func:`.dape.tags.read_vocabulary`.

    Args:
        beside: Folders to look into before ``models/seesr`` and ``models/rams``.

    Raises:
        SeeSRError: They are nowhere, or in two folders.
    """
    places = [*beside, *roots(SEESR), *roots(RAMS)]
    files = next(filter(None, map(tag_files, places)), None)
    if files is None:
        missing = _find_missing_lists(places)
        if len(missing) == 1:
            fault = f"Load DAPE: the tag list {missing[0]} is missing."
        elif missing:
            fault = f"Load DAPE: the tag lists {TAG_LIST} and {THRESHOLDS} are missing."
        else:
            fault = f"Load DAPE: the tag lists {TAG_LIST} and {THRESHOLDS} lie in two folders."
        raise SeeSRError(f"{fault} {FETCH_TAGS}, or put them {LISTS_BY_HAND}.")
    return files


def fingerprint(*paths: Path | None) -> str:
    """Return a text that changes when one of these files, or a file in one of these folders, changes."""
    files = [file for path in paths if path for file in (path, *sorted(path.rglob("*"))) if file.is_file()]
    states = [(file, file.stat()) for file in files]
    return "\n".join(f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states)


def _choose_seesr() -> Path:
    names = [name for name in seesr_choices() if not is_named_as_packed("dape", name)]
    packed = [name for name in names if is_named_as_packed("seesr", name)]
    folders = [name for name in names if not name.endswith(".safetensors") and _parent_name(name) not in names]
    name = _choose_first_or_only("Load SeeSR: seesr", packed, PUBLISHED_SEESR, folders or names)
    if name:
        return require_model("seesr", name, _FETCH_SEESR)
    begun = find(PUBLISHED_SEESR, SEESR)
    there = seesr_parts(begun) if begun else {}
    missing = [f"{PUBLISHED_SEESR}/{part}" for part in SEESR_PARTS if part not in there]
    raise SeeSRError(
        f"Load SeeSR: auto finds no packed SeeSR, and the published {_join_with_verb(missing)} missing in "
        f"models/seesr: {FETCH_AND_PACK}, or {SEESR_BY_HAND}"
    )


def _parent_name(name: str) -> str:
    """Return the folder around a choice. If both are choices, a SeeSR lies one level deeper than expected."""
    return PurePosixPath(name).parent.as_posix()


def _choose_ram() -> Path | None:
    names = [name for name in ram_choices() if name != DAPE.path and not is_named_as_packed("seesr", name)]
    packed = [name for name in names if is_named_as_packed("dape", name)]
    name = _choose_first_or_only("Load DAPE: ram", packed, RAM.path, names)
    return _require_tagger("ram", name) if name else None


def _choose_first_or_only(slot: str, packed: list[str], published: str, names: list[str]) -> str | None:
    """Return the first packed name, else the published one, else the only one; None if there is none."""
    if packed:
        return packed[0]
    if published in names:
        return published
    if len(names) > 1:
        raise SeeSRError(f"{slot} is auto and finds several ({', '.join(names)}): choose one of them.")
    return names[0] if names else None


def _require_tagger(slot: str, name: str) -> Path:
    return require_model("dape", name, f"{FETCH_SEESR}, or put {TAGGER_BY_HAND[slot]}.")


def _tell_no_tagger(missing: list[str]) -> str:
    """Return the sentence about slots for which ``auto`` finds nothing, and about missing tag lists."""
    lists = _find_missing_lists([*roots(SEESR), *roots(RAMS)])
    names = [*({"ram": RAM.path, "dape": DAPE.path}[slot] for slot in missing), *lists]
    by_hand = [TAGGER_BY_HAND[slot] for slot in missing]
    if lists:
        by_hand.append(f"{' and '.join(lists)} {LISTS_BY_HAND}")
    return (
        f"Load DAPE: auto finds no packed DAPE, and the published {_join_with_verb(names)} missing in models/rams and "
        f"models/seesr: {FETCH_AND_PACK}, or put {', '.join(by_hand)}."
    )


def _find_missing_lists(places: list[Path]) -> list[str]:
    return [name for name in (TAG_LIST, THRESHOLDS) if not any((place / name).is_file() for place in places)]


def _join_with_verb(names: list[str]) -> str:
    """Return the names and the verb: ``a is``, or ``a, b are``."""
    return f"{', '.join(names)} {'are' if len(names) > 1 else 'is'}"
