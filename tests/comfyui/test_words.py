"""The words of the nodes: schemas, translations, help pages and README agree and name only what exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nodes as comfyui_nodes
import pytest
from pack_nodes import NODES, SCHEMAS
from seesr_pack.run import COMMANDS, HANDLERS
from seesr_pack.seesr_modules.comfyui.loading.choices import AUTO, PLAIN_RAM
from seesr_pack.seesr_modules.published import CATALOGUE
from seesr_pack.tools import locales

pytestmark = pytest.mark.pinned_only("the texts are the same with every ComfyUI")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
README = ROOT / "README.md"

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
BROKEN_BY = set("{}@|")
"""Characters with a special meaning in the translations of ComfyUI's page."""

FEW = 6
"""The help page explains each choice of a list that is no longer than this. Longer lists are ComfyUI's."""

FILES = {"file", "seesr", "ram", "dape", "cfw", "era"}
"""Inputs that list the user's files after the node's own choices."""

PRODUCTS = {"Recognize Anything", "Stable Diffusion"}
OTHER_NAMES = {"custom_nodes", "true", "false", *CATALOGUE}
"""Lowercase words that may be in code quotes although they name no input, output or choice."""

LEFT, RIGHT, COLON, COMMA, TO = "\uff08", "\uff09", "\uff1a", "\uff0c", "\u2013"
"""Full-width brackets, colon and comma, and the dash of a range."""

COMFYUI_NODES = {
    f"Checkpoint加载器{LEFT}简易{RIGHT}": "Load Checkpoint",
    "加载图像": "Load Image",
    "K采样器": "KSampler",
    f"自定义采样器{LEFT}高级{RIGHT}": "SamplerCustomAdvanced",
    "保存图像": "Save Image",
}
"""Names of ComfyUI's nodes in the graphs: Chinese -> English."""


class Headings(NamedTuple):
    """The sections of a help page, in order."""

    inputs: str
    outputs: str
    values: str
    trouble: str
    graph: str


HEADINGS = {
    "en": Headings("Inputs", "Outputs", "Typical values", "What goes wrong", "In a graph"),
    "zh": Headings("输入", "输出", "常用取值", "常见问题", "连接示例"),
}


WORDS = {language: locales.read(language) for language in HEADINGS}
PAGES = [(node_id, language) for node_id in SCHEMAS for language in HEADINGS]


def page_file(node_id: str, language: str) -> Path:
    """Return the file that the frontend asks for: NODE/LANGUAGE.md, or NODE.md if that is missing."""
    own = DOCS / node_id / f"{language}.md"
    return own if own.exists() else DOCS / f"{node_id}.md"


def page(node_id: str, language: str) -> str:
    return page_file(node_id, language).read_text("utf-8")


def texts(words: dict[str, Any]) -> Iterator[str]:
    for value in words.values():
        if isinstance(value, dict):
            yield from texts(value)
        else:
            yield value


# ------------------------------------------------------------------------------------- schemas and translations


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_everything_on_a_node_is_named_and_explained(node_id: str) -> None:
    schema = SCHEMAS[node_id]
    assert schema.display_name and schema.description
    for socket in [*schema.inputs, *schema.outputs]:
        assert socket.tooltip, f"give {socket.id} a tooltip in the node's file in nodes/"
    for output in schema.outputs:
        assert output.display_name, f"the page would call the output {output.id} {output.io_type}"


def test_english_is_what_the_schemas_say() -> None:
    assert WORDS["en"] == locales.english(NODES), "run `python run.py generate`"


def test_chinese_has_every_text_of_english_and_no_other() -> None:
    there, wanted = (set(locales.keys(WORDS[language])) for language in ("zh", "en"))
    assert (wanted - there, there - wanted) == (set(), set()), "locales/zh/nodeDefs.json lacks texts, or has old ones"
    for english, chinese in ((WORDS["en"][node_id], WORDS["zh"][node_id]) for node_id in SCHEMAS):
        assert re.search("[一-鿿]", chinese["description"]), english["display_name"]
        for part in ("inputs", "outputs"):
            for key, words in chinese[part].items():
                assert re.search("[一-鿿]", words["tooltip"]), f"{english['display_name']}, {key}"


def test_one_name_means_one_node() -> None:
    for words in WORDS.values():
        names = [node["display_name"] for node in words.values()]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("language", HEADINGS)
def test_no_text_holds_what_the_page_takes_for_a_command(language: str) -> None:
    assert [text for text in texts(WORDS[language]) if BROKEN_BY & set(text)] == []


def known_nodes() -> set[str]:
    return {schema.display_name for schema in SCHEMAS.values()} | set(comfyui_nodes.NODE_DISPLAY_NAME_MAPPINGS.values())


@pytest.mark.parametrize("text", sorted(set(texts(locales.english(NODES)))))
def test_a_tooltip_names_only_nodes_that_are_there(text: str) -> None:
    """Two or more capitalised words in a row must name a node or a product."""
    for run in re.findall(r"[A-Z][\w-]*(?: [A-Z][\w-]*)+(?: \([a-z ]+\))?", text):
        name = re.sub(r"^(An?|For|From|In|The|What|With) ", "", run)
        plain = re.sub(r" \(.*", "", name)
        assert " " not in plain or {name, plain} & known_nodes() or plain in PRODUCTS, name


def test_chinese_tooltips_name_only_nodes_that_are_there() -> None:
    names = {node["display_name"] for node in WORDS["zh"].values()}
    quoted = {name for text in texts(WORDS["zh"]) for name in re.findall("「(.+?)」", text)}
    assert quoted
    assert quoted - names == set()


# ------------------------------------------------------------------------------------- help pages


def section(text: str, heading: str) -> str:
    """Return the text under a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {heading}"
    return found[1].strip()


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


class Entry(NamedTuple):
    """One socket in the list of a help page."""

    name: str
    facts: str
    text: str


def entries(text: str, language: str) -> list[Entry]:
    """Return the sockets in a list of the form ``- **name** (facts): text``."""
    left, right, colon = (LEFT, RIGHT, COLON) if language == "zh" else (" (", ")", ": ")
    pattern = rf"- \*\*(.+?)\*\*{re.escape(left)}(.+?){re.escape(right)}{colon}(.+)"
    found = [re.fullmatch(pattern, line) for line in text.splitlines() if line.startswith("- ")]
    assert all(found), text
    return [Entry(*match.groups()) for match in found if match]


def quotes(text: str) -> list[list[str]]:
    """Return messages and remedies of a list of the form ``- `message`: remedy``."""
    found = [re.fullmatch(rf"- `(.+?)`(?:: |{COLON})(.+)", line) for line in text.splitlines() if line.startswith("- ")]
    assert all(found), text
    return [list(match.groups()) for match in found if match]


def kind(socket: Any, comma: str) -> str:
    """Return the facts in brackets after an input: its type, or the default and range of its widget."""
    default = getattr(socket, "default", None)
    if socket.get_io_type() not in WIDGETS or default is None:
        return f"`{socket.get_io_type()}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f"`{default}`" if socket.get_io_type() == "COMBO" else f'`"{default}"`'
    return f"`{default}`" if socket.max >= 2**63 else f"`{default}`{comma}{socket.min:g}{TO}{socket.max:g}"


def wanted(node_id: str, part: str, facts: dict[str, str], language: str) -> list[tuple[str, str]]:
    """Turn id -> facts into (name, facts). A Chinese page has the translated name, and the id as a fact."""
    if language == "en":
        return list(facts.items())
    names = [words["name"] for words in WORDS[language][node_id][part].values()]
    return [(name, f"`{id_}`{COMMA}{fact}") for name, (id_, fact) in zip(names, facts.items(), strict=True)]


def test_there_is_a_page_for_each_node_and_no_other() -> None:
    assert {file.stem for file in DOCS.glob("*.md")} == set(SCHEMAS), "each node needs web/docs/ID.md"
    chinese = {file.relative_to(DOCS).as_posix() for file in DOCS.glob("*/*")}
    assert chinese == {f"{name}/zh.md" for name in SCHEMAS}, "each node needs web/docs/ID/zh.md"


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_page_has_its_title_and_sections(node_id: str, language: str) -> None:
    text = page(node_id, language)
    title, introduction = text.split("\n\n")[:2]
    assert title == f"# {WORDS[language][node_id]['display_name']}"
    assert not introduction.startswith("#")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(HEADINGS[language])
    for heading in HEADINGS[language]:
        assert section(text, heading)


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_page_explains_each_input_and_output(node_id: str, language: str) -> None:
    schema, headings, text = SCHEMAS[node_id], HEADINGS[language], page(node_id, language)
    comma = COMMA if language == "zh" else ", "
    inputs = {socket.id: kind(socket, comma) for socket in schema.inputs}
    outputs = {socket.display_name: f"`{socket.io_type}`" for socket in schema.outputs}
    for part, facts, heading in (("inputs", inputs, headings.inputs), ("outputs", outputs, headings.outputs)):
        there = [entry[:2] for entry in entries(section(text, heading), language)]
        assert there == wanted(node_id, part, facts, language), f"{page_file(node_id, language)}, {heading}"


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_page_fits_the_narrow_panel_of_newer_pages(node_id: str, language: str) -> None:
    assert "\n|" not in page(node_id, language), "a table of three columns leaves a few letters to a line: use a list"


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_page_explains_each_choice(node_id: str, language: str) -> None:
    for socket in SCHEMAS[node_id].inputs:
        for option in choices(socket):
            assert f"`{option}`" in page(node_id, language), f"{page_file(node_id, language)}, {socket.id}: {option}"


def choices(socket: Any) -> list[str]:
    """Return the node's own choices, without the user's files and without ComfyUI's choices."""
    if socket.get_io_type() != "COMBO" or socket.default is None:
        return []
    if socket.id in FILES:
        return [option for option in socket.options if option in (AUTO, PLAIN_RAM)]
    return list(socket.options) if len(socket.options) <= FEW else []


@cache
def names_in_code() -> set[str]:
    """Return every lowercase word that may be in code quotes."""
    sockets = [socket for schema in SCHEMAS.values() for socket in [*schema.inputs, *schema.outputs]]
    ids = {name for socket in sockets for name in (socket.id, socket.display_name)}
    options = {option for socket in sockets for option in getattr(socket, "options", None) or []}
    return ids | options | OTHER_NAMES | {*COMMANDS, *HANDLERS}


def check_names(text: str, known: set[str]) -> None:
    """Check that lowercase words in code quotes are in ``known``, and that node ids are of this pack."""
    quoted = set(re.findall(r"`([a-z][a-z0-9_]*)`", text))
    assert quoted - known == set()
    assert set(re.findall(r"\bSeeSR_\w+", text)) - set(SCHEMAS) == set()


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_page_names_only_what_is_there(node_id: str, language: str) -> None:
    text = page(node_id, language)
    check_names(text, names_in_code())
    titles = {node["display_name"] for node in WORDS[language].values()}
    prose = re.sub(rf"^- \*\*.+?\*\*(?= ?[({LEFT}])", "", text, flags=re.MULTILINE)  # without the names in the lists
    assert set(re.findall(r"\*\*(.+?)\*\*", prose)) - titles == set()
    if language == "zh":
        own = {slot["name"] for node in WORDS["zh"].values() for slot in node["inputs"].values()}
        assert set(re.findall("「(.+?)」", text)) - own == set()


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_pages_graph_links_outputs_to_inputs_that_are_there(node_id: str, language: str) -> None:
    by_title = {node["display_name"]: node for node in WORDS[language].values()}
    seen = set()
    for line in section(page(node_id, language), HEADINGS[language].graph).splitlines():
        assert line.startswith("- "), f"a list wraps in the narrow panel, where a code block scrolls: {line}"
        for part, end in zip(("outputs", "inputs"), line[2:].split(" → "), strict=True):
            title, name = end.split(" · ")
            seen.add(title)
            if title in by_title:
                assert name in {slot["name"] for slot in by_title[title][part].values()}, line
            else:
                assert title in (COMFYUI_NODES if language == "zh" else COMFYUI_NODES.values()), line
    assert WORDS[language][node_id]["display_name"] in seen


@cache
def messages() -> list[str]:
    """Return every text in the pack's code, with … for each value that is filled in."""
    found = []
    for file in sorted([*(ROOT / "seesr_modules").rglob("*.py"), *(ROOT / "commands").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(parts))
    return found


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_a_page_quotes_messages_that_the_code_gives(node_id: str, language: str) -> None:
    for quote, _ in quotes(section(page(node_id, language), HEADINGS[language].trouble)):
        pattern = re.compile(".*".join(map(re.escape, quote.split("…"))), re.DOTALL)
        found = any(pattern.search(message) for message in messages())
        assert found, f"{page_file(node_id, language)} quotes a message that the code does not have: {quote}"


def test_both_languages_quote_the_same_messages() -> None:
    for node_id in SCHEMAS:
        quoted = [
            [quote for quote, _ in quotes(section(page(node_id, language), headings.trouble))]
            for language, headings in HEADINGS.items()
        ]
        assert quoted[0] == quoted[1]


# ------------------------------------------------------------------------------------- README


def readme_table(heading: str) -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in rows(section(README.read_text("utf-8"), heading))}


def test_the_readme_lists_each_node_with_sockets_that_it_has() -> None:
    table = readme_table("Nodes")
    titles = {node_id: schema.display_name for node_id, schema in SCHEMAS.items()}
    assert {row[0].strip("`"): name for name, row in table.items()} == titles, "the table of nodes in README.md"
    for node_id, _, inputs, outputs in table.values():
        schema = SCHEMAS[node_id.strip("`")]
        assert set(re.findall(r"`(\w+)`", inputs)) <= {socket.id for socket in schema.inputs}
        assert re.findall(r"`(\w+)`", outputs) == [socket.display_name for socket in schema.outputs]


def test_the_readme_lists_each_workflow() -> None:
    assert set(readme_table("Workflows")) == {file.stem for file in (ROOT / "workflows").glob("*.json")}


def test_the_readme_names_only_what_is_there() -> None:
    text = README.read_text("utf-8")
    check_names(text, names_in_code() | set(readme_table("Workflows")))
    assert set(re.findall(r"python run\.py (\w+)", text)) <= {*COMMANDS, *HANDLERS}
    for target in re.findall(r"\]\((?!https?://)([^)]*)\)", text):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / path).exists(), target
        assert not anchor or f"## {anchor.title()}" in text, target
