"""pyproject.toml follows the rules of ComfyUI's registry, which refuses or misreads other content.

The rules are in ComfyUI's documentation: Registry, "pyproject.toml" and "Standards".
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # installed with pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT, COMFY = CONFIG["project"], CONFIG["tool"]["comfy"]

COMFY_FIELDS = {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui", "includes", "Models", "web"}
SYSTEMS = ("OS Independent", "Microsoft", "POSIX", "MacOS")
ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
}
OPERATORS = ("<=", ">=", "~=", "<>", "!=", "<", ">")
MAX_BYTES = 300_000


def classifiers(prefix: str) -> list[str]:
    """Return the rest of each classifier that begins with ``prefix``."""
    return [text.removeprefix(prefix) for text in PROJECT["classifiers"] if text.startswith(prefix)]


def test_the_registry_accepts_the_name() -> None:
    name = PROJECT["name"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name) and len(name) < 100
    assert "comfyui" not in name.lower(), "the registry advises against it"


def test_the_version_has_three_numbers_and_a_changelog_entry() -> None:
    version = PROJECT["version"]
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version)
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    unreleased, _, released = changelog.partition("## [Unreleased]")[2].partition("\n## [")
    assert released.startswith(f"{version}]") if released else f"to be {version}" in unreleased


def test_the_version_is_stated_only_in_pyproject() -> None:
    stated = re.compile(r"^__version__|^VERSION\b", re.MULTILINE)
    for file in [*ROOT.glob("*.py"), *(ROOT / "seesr_modules").rglob("*.py"), *(ROOT / "commands").rglob("*.py")]:
        assert not stated.search(file.read_text("utf-8")), file


def test_publisher_and_repository_belong_together() -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", COMFY["PublisherId"])
    assert COMFY["DisplayName"].strip() == COMFY["DisplayName"] != ""
    urls = PROJECT["urls"]
    assert re.fullmatch(rf"https://github\.com/{COMFY['PublisherId']}/[\w.-]+", urls["Repository"])
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert urls["Repository"] in (ROOT / "README.md").read_text("utf-8")


def test_the_registry_knows_all_fields() -> None:
    assert set(COMFY) <= COMFY_FIELDS


def test_the_licence_is_given_as_an_existing_file() -> None:
    assert list(PROJECT["license"]) == ["file"]
    text = (ROOT / PROJECT["license"]["file"]).read_text("utf-8")
    assert text.lstrip().startswith("Apache License")
    assert "License :: OSI Approved :: Apache Software License" in PROJECT["classifiers"]


def test_the_registry_knows_the_systems_and_accelerators() -> None:
    systems, accelerators = classifiers("Operating System :: "), classifiers("Environment :: ")
    assert systems and all(system.startswith(SYSTEMS) for system in systems)
    assert accelerators and set(accelerators) <= ACCELERATORS


def test_the_readme_states_the_range_of_comfyui_versions() -> None:
    clauses = COMFY["requires-comfyui"].split(",")
    for clause in clauses:
        assert re.fullmatch(rf"({'|'.join(OPERATORS)})\d+\.\d+\.\d+", clause), clause
    (lowest,) = (clause.removeprefix(">=") for clause in clauses if clause.startswith(">="))
    assert f"ComfyUI {lowest} or later" in (ROOT / "README.md").read_text("utf-8")


def test_the_dependencies_equal_requirements_txt() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    assert PROJECT["dependencies"] == [line for line in lines if line]


@pytest.mark.parametrize("field", ["Icon", "Banner"])
def test_icon_and_banner_exist_in_the_required_form(field: str) -> None:
    repository = PROJECT["urls"]["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    assert COMFY[field].startswith(f"{repository}/main/")
    file = ROOT / COMFY[field].removeprefix(f"{repository}/main/")
    assert file.suffix == ".png" and file.stat().st_size < MAX_BYTES
    with Image.open(file) as image:
        width, height = image.size
        assert image.format == "PNG"
    if field == "Icon":
        assert width == height <= 400
    else:
        assert width * 9 == height * 21


def test_ignored_files_exist_and_are_not_needed() -> None:
    lines = (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    patterns = [line.strip("/") for line in lines if line and not line.startswith("#")]
    assert all(any(ROOT.glob(pattern)) for pattern in patterns)
    ignored = {path for pattern in patterns for path in ROOT.glob(pattern)}
    needed = {"nodes", "seesr_modules", "commands", "web", "locales", "workflows", "subgraphs", "requirements"}
    needed |= {"nano/nano.safetensors", "run.py", "docs/cluster.md", "docs/film.md", *COMFY.get("includes", ())}
    for name in needed:
        assert (ROOT / name).exists() and not ignored & {ROOT / name, *(ROOT / name).parents}, name


def test_nodes_execute_no_text_and_install_nothing() -> None:
    for file in [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "seesr_modules").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{file}:{node.lineno}"
            if isinstance(node, ast.Constant):
                assert node.value != "pip", f"{file}:{node.lineno}"


def test_comfyui_reads_the_same_configuration() -> None:
    reader = pytest.importorskip("comfy_config.config_parser", reason="needs pydantic-settings")
    read = reader.extract_node_configuration(str(ROOT))
    assert (read.project.name, read.project.version) == (PROJECT["name"], PROJECT["version"])
    assert read.project.license.file == PROJECT["license"]["file"]
    assert read.project.urls.repository == PROJECT["urls"]["Repository"]
    assert read.project.supported_os == classifiers("Operating System :: ")
    assert read.project.supported_accelerators == classifiers("Environment :: ")
    assert read.project.supported_comfyui_version == COMFY["requires-comfyui"]
    assert (read.tool_comfy.publisher_id, read.tool_comfy.icon) == (COMFY["PublisherId"], COMFY["Icon"])
