"""Conditions such as `order >= 4 and not implicit` over the fields of records and rows.

They are read by Python's own parser and then by the few rules below; nothing of them is ever run.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ode_core.errors import ArgumentError

Fields = Mapping[str, Any]

_LONGEST = 1000
_CONSTANTS = {"true": True, "false": False, "none": None}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ALLOWED = (
    "names of fields, numbers, 'texts', lists, the comparisons == != < <= > >= in, and, or, not"
)


@dataclass(frozen=True)
class Condition:
    """Says of a mapping whether it holds; `fields` are the names that it looks at."""

    fields: frozenset[str]
    value: Callable[[Fields], Any]

    def __call__(self, row: Fields) -> bool:
        """Return whether it holds."""
        return bool(self.value(row))


def condition(text: str, fields: Collection[str]) -> Condition:
    """Return the condition in a text.

    `fields` are the names that may stand in it. `==` and `in` take `*` and `?` in texts; a
    comparison by size with what is no number, or is not there, does not hold. Raises ArgumentError
    for what is no condition, or names a field that is not there.
    """
    if len(text) > _LONGEST:
        raise ArgumentError(
            f"--where has {len(text)} characters; a condition has at most {_LONGEST}"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        reader = _Reader(text, frozenset(fields))
        value = reader.value(tree)
        return Condition(frozenset(reader.named), value)
    except ArgumentError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        hint = ", and equality is ==" if "=" in text and "==" not in text else ""
        raise ArgumentError(
            f"--where {text!r} is no condition; it is made of {_ALLOWED}{hint}"
        ) from None


class _Reader:
    """Turns the nodes of a condition into functions of a mapping."""

    def __init__(self, text: str, fields: frozenset[str]) -> None:
        self._text = text
        self._fields = fields
        self.named: set[str] = set()

    def value(self, node: ast.expr) -> Callable[[Fields], Any]:
        if isinstance(node, ast.BoolOp):
            parts = [self.value(part) for part in node.values]
            every = all if isinstance(node.op, ast.And) else any
            return lambda row: every(part(row) for part in parts)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.List | ast.Tuple):
            items = [self.value(item) for item in node.elts]
            return lambda row: [item(row) for item in items]
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float):
            constant = node.value
            return lambda _: constant
        if isinstance(node, ast.Name | ast.Attribute):
            return self._name(ast.unparse(node))
        raise ArgumentError(
            f"--where {self._text!r}: {ast.unparse(node)!r} cannot stand there; a condition is "
            f"made of {_ALLOWED}"
        )

    def _name(self, name: str) -> Callable[[Fields], Any]:
        if name.lower() in _CONSTANTS:
            return lambda _: _CONSTANTS[name.lower()]
        if name not in self._fields:
            nearest = difflib.get_close_matches(name, sorted(self._fields), n=3, cutoff=0.5)
            known = ", ".join(sorted(self._fields))
            raise ArgumentError(
                f"--where {self._text!r}: there is no field {name!r} (a text is written '{name}'); "
                + (f"did you mean {' or '.join(nearest)}?" if nearest else f"there are {known}")
            )
        self.named.add(name)
        return lambda row: row.get(name)

    def _unary(self, node: ast.UnaryOp) -> Callable[[Fields], Any]:
        inner = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda row: not inner(row)
        constant = isinstance(node.operand, ast.Constant)
        if isinstance(node.op, ast.USub | ast.UAdd) and constant:
            sign = -1 if isinstance(node.op, ast.USub) else 1
            return lambda row: sign * inner(row)
        raise ValueError(self._text)

    def _compare(self, node: ast.Compare) -> Callable[[Fields], Any]:
        sides = [self.value(side) for side in (node.left, *node.comparators)]
        holds = [_comparison(op) for op in node.ops]

        def compare(row: Fields) -> bool:
            values = [side(row) for side in sides]
            return all(
                hold(*pair) for hold, pair in zip(holds, itertools.pairwise(values), strict=True)
            )

        return compare


def _comparison(op: ast.cmpop) -> Callable[[Any, Any], bool]:
    if isinstance(op, ast.Eq):
        return _equal
    if isinstance(op, ast.NotEq):
        return lambda left, right: not _equal(left, right)
    if isinstance(op, ast.In):
        return _within
    if isinstance(op, ast.NotIn):
        return lambda left, right: not _within(left, right)
    if type(op) in _COMPARE:
        return _ordered(_COMPARE[type(op)])
    raise ValueError("is and is not compare objects, of which a row has none")


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def holds(left: Any, right: Any) -> bool:
        try:
            return bool(compare(left, right))
        except TypeError:  # a text and a number, or a field that this row does not have
            return False

    return holds


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return fnmatchcase(left, right)
    return bool(left == right)


def _within(left: Any, right: Any) -> bool:
    if isinstance(right, list):
        return any(_equal(left, item) for item in right)
    return isinstance(left, str) and isinstance(right, str) and left in right
