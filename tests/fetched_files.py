"""A file that tests fetch, the places that have it, and what is there afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from seesr_pack.seesr_modules.published import APACHE_2, HubSource, PublishedFile, WebSource

CONTENT = save({"conv_in.weight": np.random.default_rng(0).standard_normal(50_000).astype(np.float32)})
OTHER = save({"conv_in.weight": np.zeros(50_000, np.float32)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "model.safetensors"
FIRST, SECOND = (
    HubSource("first/repo", NAME),
    HubSource("second/repo", f"sub/{NAME}", "v1", repo_type="space"),
)
HALF = len(CONTENT) // 2


def weight_file(*sources: HubSource | WebSource, sha256: str | None = SHA256, size: int | None = None) -> PublishedFile:
    return PublishedFile(
        title="The UNet",
        kind="seesr",
        path=f"SeeSR/{NAME}",
        sources=sources or (FIRST,),
        licence=APACHE_2,
        approx_bytes=len(CONTENT),
        size_bytes=size,
        sha256=sha256,
        names=("conv_in.weight",),
    )


def ignore(line: str) -> None:
    """Ignore a line of output."""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def assert_done(path: Path, folders: dict[str, tuple[Path, ...]]) -> None:
    """Assert that the file is complete, in its place, and the only file there."""
    assert path == folders["seesr"][0] / "SeeSR" / NAME
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == [NAME]
