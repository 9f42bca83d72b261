"""ComfyUI's model folders, found without running ComfyUI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.published import KINDS

Folders = Mapping[str, tuple[Path, ...]]
"""Kind -> the folders that ComfyUI searches for it; new files go into the first."""


def find_folders(models: Path | None = None, comfyui: Path | None = None) -> Folders:
    """Return the model folders to search and to fill.

    Args:
        models: The only folder to use, in place of ComfyUI's ``models``.
        comfyui: ComfyUI's folder. Default: COMFYUI_PATH, else the one whose ``custom_nodes`` holds this pack.
            Its ``extra_model_paths.yaml`` is read as ComfyUI reads it.

    Raises:
        SeeSRError: There is no ComfyUI, or an ``extra_model_paths.yaml`` cannot be read.
    """
    if models is not None:
        return {kind: (models.absolute() / kind,) for kind in KINDS}
    root = _comfyui_root(comfyui)
    folders: dict[str, list[Path]] = {kind: [root / "models" / kind] for kind in KINDS}
    extra = root / "extra_model_paths.yaml"
    if extra.is_file():
        _add_extra_paths(folders, extra)
    return {kind: tuple(paths) for kind, paths in folders.items()}


def _comfyui_root(comfyui: Path | None) -> Path:
    told = comfyui or (Path(path) if (path := os.environ.get("COMFYUI_PATH")) else None)
    if told is not None:
        if not (told / "models").is_dir():
            raise SeeSRError(f"{told} is not ComfyUI's folder: it has no models folder; give another --comfyui.")
        return told.absolute()
    for folder in Path(__file__).absolute().parents:
        if folder.parent.name == "custom_nodes" and (folder.parent.parent / "models").is_dir():
            return folder.parent.parent
    raise SeeSRError(
        "ComfyUI was not found around this node pack: say where the models go with --models DIR, "
        "or where ComfyUI is with --comfyui DIR or COMFYUI_PATH."
    )


def _add_extra_paths(folders: dict[str, list[Path]], config: Path) -> None:
    """Add the folders that an ``extra_model_paths.yaml`` names, in ComfyUI's order."""
    try:
        sections = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        for section in filter(None, sections.values()):
            base = config.parent
            if base_path := section.get("base_path"):
                base /= os.path.expandvars(Path(base_path).expanduser())
            for kind, paths in folders.items():
                for line in filter(None, (line.strip() for line in section.get(kind, "").split("\n"))):
                    path = Path(os.path.normpath(base / line))
                    if section.get("is_default") and path in paths:
                        paths.remove(path)
                    if path not in paths:
                        paths.insert(0 if section.get("is_default") else len(paths), path)
    except (OSError, yaml.YAMLError, UnicodeError, RecursionError, AttributeError, TypeError) as error:
        raise SeeSRError(f"{config} cannot be read: {error}; correct it, or use --models DIR.") from error
