"""Looking through the graph that an evaluation of f has left."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn


def outside(out: Tensor, inner: Iterable[Any]) -> list[Tensor]:
    """Return the leaves that `out` depends on, other than `inner` ones and not through these."""
    leaves, seen = set(), set()
    for x in inner:
        leaves.add(id(x))
        if isinstance(x, Tensor) and x.grad_fn is not None:
            seen.add(x.grad_fn)
    found, waiting = [], [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        after = node.next_functions
        if after:
            waiting += [following for following, _ in after]
        elif type(node) is _leaf_node():
            leaf: Tensor = node.variable  # type: ignore[attr-defined]
            if id(leaf) not in leaves:
                found.append(leaf)
    return found


@cache
def _leaf_node() -> type:
    with torch.enable_grad():
        made = torch.zeros((), requires_grad=True).view(1).grad_fn
    assert made is not None  # gradients are enabled
    return type(made.next_functions[0][0])


def name_of(x: Tensor, f: Any) -> str:
    """Return what a reader knows a tensor by: its name where f holds it, and its shape."""
    shape = f"of shape {tuple(x.shape)}"
    for name, value in _names(getattr(f, "__self__", f)):
        if value is x:
            return f"the tensor {name!r}, {shape},"
    return f"a tensor {shape}"


def _names(f: Any) -> list[tuple[str, Any]]:
    if isinstance(f, FunctionType):
        named = []
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            named.append((name, cell.cell_contents))
            if isinstance(cell.cell_contents, nn.Module):
                named += [(f"{name}.{n}", p) for n, p in cell.cell_contents.named_parameters()]
        return named + [(name, f.__globals__.get(name)) for name in f.__code__.co_names]
    if isinstance(f, nn.Module):
        return [*f.named_parameters(), *vars(f).items()]
    return list(getattr(f, "__dict__", {}).items())
