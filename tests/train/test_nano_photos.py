"""Nano's photographs: gathered from packages and repositories by their SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from seesr_pack.tools.nano_photos import place


def photo(file: str, package: str, path: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"file": file, "package": package, "path": path, "sha256": hashlib.sha256(content).hexdigest(), **more}


def test_photos_come_from_repositories_packages_and_ranges_of_files(tmp_path: Path) -> None:
    packages, target = tmp_path / "packages", tmp_path / "photos"
    (packages / "pictures" / "deep").mkdir(parents=True)
    (packages / "pictures" / "deep" / "one.jpg").write_bytes(b"one")
    (packages / "made-up_1.0").mkdir()
    (packages / "made-up_1.0" / "many.rcc").write_bytes(b"..two...")
    found = [
        photo("first.jpg", "maker/pictures", "deep/one.jpg", b"one"),
        photo("second.jpg", "made-up", "many.rcc", b"two", bytes=[2, 3]),
    ]
    lost = [
        photo("changed.jpg", "maker/pictures", "deep/one.jpg", b"another commit's"),
        photo("gone.jpg", "made-up", "gone.jpg", b"three"),
    ]
    problems = place(found + lost, packages, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"first.jpg": b"one", "second.jpg": b"two"}
    assert len(problems) == 2
    assert any("changed.jpg" in line and "maker/pictures" in line for line in problems)
    assert any("gone.jpg" in line and "made-up" in line for line in problems)
