"""Make small faults in a Python file, as a slip of the hand would.

A fault changes a comparison, a boolean or a number, or removes a line, an argument, an entry or a bound. Names, texts,
annotations, imports, docstrings and messages are not changed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "lcm": "gcd"}
REMOVABLE = {"abs", "round", "sorted", "reversed", "clamp", "clamp_", "clone", "detach", "contiguous", "float"}
REMOVABLE |= {"resolve", "absolute", "expanduser", "strip", "casefold", "lower", "copy", "requires_grad_", "eval"}
DECORATORS = {"no_grad", "inference_mode"}
MESSAGES = {"SeeSRError", "TypeError", "ValueError", "LauncherError"}


class Mutant(NamedTuple):
    """A fault: its place, and the code that replaces the original."""

    line: int
    change: str
    function: str | None
    """The enclosing function; None at the top of a module or class."""
    names: frozenset[str]
    """The constants or fields that are changed by a fault outside functions."""
    span: tuple[int, int]
    """Start and end, in bytes, of the code that the fault replaces."""
    put: str

    def applied(self, text: str) -> str:
        """Return a file's text with this fault."""
        source = text.encode()
        begin, end = self.span
        return (source[:begin] + self.put.encode() + source[end:]).decode()


def mutants(text: str) -> list[Mutant]:
    """Return every possible fault of a file's text, in the order of lines."""
    source = text.encode()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}
    for node, new, function, names in _changes(ast.parse(text), None, frozenset()):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        put = "pass" if new is None else f"({ast.unparse(new)})"
        change = f"{_short(source[begin:end].decode())}  ->  {_short(put)}"
        found[begin, end, put] = Mutant(node.lineno, change, function, names, (begin, end), put)
    return [found[key] for key in sorted(found)]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-36:]}"


Change = tuple[ast.AST, "ast.AST | None", "str | None", frozenset[str]]


def _changes(node: ast.AST, function: str | None, names: frozenset[str]) -> Iterator[Change]:
    """Yield (node, replacement or None to remove it, function, names) for a node and all nodes below it."""
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)) or _is_exempt(node):
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        function = node.name
    if function is None and isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = frozenset(name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
    for old, new in _variants(node):
        yield old, new, function, names
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _changes(child, function, names)


def _is_exempt(node: ast.AST) -> bool:
    """Tell whether code is a message, or serves type checking only."""
    if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _name(node.func) in MESSAGES)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _without(items: list, index: int) -> list:
    return items[:index] + items[index + 1 :]


def _variants(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Yield the faults of one node."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=others):
            for i, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield node, _with(node, ops=[*ops[:i], other(), *ops[i + 1 :]])
            if len(ops) > 1:
                yield node, ast.Compare(left, ops[:1], others[:1])
                yield node, ast.Compare(others[-2], ops[-1:], others[-1:])
        case ast.BoolOp(op=op, values=values):
            yield node, _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for i in range(len(values)):
                rest = _without(values, i)
                yield node, rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, operand
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield node, _with(node, op=OPERATORS[type(op)]())
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield node, ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(value * 1.25 or 0.25)
        case ast.Call(func=func, args=args, keywords=keywords):
            yield from _call_variants(node, func, args, keywords)
        case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test):
            if isinstance(test, (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr)):
                yield test, ast.UnaryOp(ast.Not(), test)
            if isinstance(node, ast.If) and not node.orelse:
                yield node, None
        case ast.Dict(keys=keys, values=values) if len(keys) > 1:
            for i in range(len(keys)):
                yield node, _with(node, keys=_without(keys, i), values=_without(values, i))
        case ast.comprehension(ifs=[*_, condition]):
            yield condition, ast.Constant(value=True)
        case ast.Slice(lower=lower, upper=upper):
            if lower:
                yield node.lower, ast.Constant(value=None)
            if upper:
                yield node.upper, ast.Constant(value=None)
        case ast.FunctionDef(decorator_list=decorators):
            for decorator in decorators:
                if _name(decorator.func if isinstance(decorator, ast.Call) else decorator) in DECORATORS:
                    yield decorator, ast.parse("lambda function: function", mode="eval").body
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Continue() | ast.Break() | ast.Delete():
            yield node, None
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, None
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(value)):
                yield node, None


def _call_variants(
    node: ast.Call, func: ast.AST, args: list[ast.AST], keywords: list[ast.keyword]
) -> Iterator[tuple[ast.AST, ast.AST]]:
    name = _name(func)
    if name in SWAPPED:
        other = SWAPPED[name]
        yield node, _with(node, func=_with(func, **{"id" if isinstance(func, ast.Name) else "attr": other}))
    if name in REMOVABLE:
        if isinstance(func, ast.Attribute):
            yield node, func.value
        elif args:
            yield node, args[0]
    for i, keyword in enumerate(keywords):
        if keyword.arg:
            yield node, _with(node, keywords=_without(keywords, i))
    if args and isinstance(args[-1], (ast.Constant, ast.UnaryOp)) and isinstance(func, ast.Attribute):
        yield node, _with(node, args=args[:-1])
