"""Test the faults that tests/mutation makes in the code."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "mutation" / "mutants.py"
spec = importlib.util.spec_from_file_location("mutants", FILE)
assert spec is not None and spec.loader is not None
mutation = importlib.util.module_from_spec(spec)
sys.modules["mutants"] = mutation
spec.loader.exec_module(mutation)


def faulty(text: str) -> set[str]:
    """Return the code with each fault, without redundant spaces and brackets."""
    return {ast.unparse(ast.parse(mutant.applied(text))) for mutant in mutation.mutants(text)}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a == b", {"a != b"}),
        ("x < y <= z", {"x <= y <= z", "x >= y <= z", "x < y < z", "x < y > z", "x < y", "y <= z"}),
        ("a and b", {"a or b", "a", "b"}),
        ("not a", {"a"}),
        ("a + b", {"a - b"}),
        ("n = 3", {"n = 4"}),
        ("r = 0.5", {"r = 0.625"}),
        ("f(x, k=v)", {"f(x)", "pass"}),
        ("y = t.clamp(a)", {"y = t"}),
        ("y = max(a, b)", {"y = min(a, b)"}),
        ("self.x = y", {"pass"}),
        ("x = g(x)", {"pass"}),
        ("x = y", set()),
        ("if c:\n    d = e", {"if not c:\n    d = e", "pass"}),
        ("v = {'a': b, 'c': d}", {"v = {'a': b}", "v = {'c': d}"}),
        ("[x for x in y if x]", {"[x for x in y if True]"}),
        ("x = y[a:b]", {"x = y[None:b]", "x = y[a:None]"}),
        ("raise SeeSRError(a + b)", set()),
        ("x = f'{a + 1}'", set()),
        ('def f(a: int = 1):\n    """Docs of 1."""', {'def f(a: int=2):\n    """Docs of 1."""'}),
    ],
)
def test_each_kind_of_fault_is_made(text: str, faults: set[str]) -> None:
    assert faulty(text) == faults


def test_a_fault_states_its_place() -> None:
    """The place is right after multi-byte characters. The function or the constant around the fault is named."""
    text = "WORT = ('ä', 1)\n\ndef f(ö):\n    return 'ü', ö < 2\n"
    found = mutation.mutants(text)
    assert [(mutant.line, mutant.function, set(mutant.names)) for mutant in found] == [
        (1, None, {"WORT"}),
        *[(4, "f", set())] * 3,
    ]
    assert found[0].applied(text) == text.replace("1", "(2)")
    assert found[0].change == "1  ->  (2)"


def test_faults_in_the_pack_are_valid_python() -> None:
    """Check the first and the last fault of each file."""
    for file in (FILE.parents[2] / "seesr_modules").rglob("*.py"):
        text = file.read_text("utf-8")
        found = mutation.mutants(text)
        for mutant in (*found[:1], *found[-1:]):
            ast.parse(mutant.applied(text))
