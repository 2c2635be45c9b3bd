"""Looking through the graph that an evaluation of f has left."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge


def node_of(x: Tensor) -> Node:
    """Return the node of the graph at which the gradient of `x`, which requires one, arrives."""
    if x.grad_fn is not None:
        return x.grad_fn
    return get_gradient_edge(x).node


def outside(out: Tensor, own: tuple[Any, ...], known: Collection[Node] = ()) -> list[Tensor]:
    """Return the leaves that `out` depends on otherwise than through `own` ones or `known` nodes.

    Nodes are looked up by identity: whoever gives them holds them.
    """
    if out.grad_fn is None:
        return [] if any(out is x for x in own) or node_of(out) in known else [out]
    seen: set[Node] = {x.grad_fn for x in own if isinstance(x, Tensor) and x.grad_fn is not None}
    found, waiting, leaf_node = [], [out.grad_fn], _leaf_node()
    if out.grad_fn in seen or out.grad_fn in known:
        return []
    while waiting:
        node = waiting.pop()
        after = node.next_functions
        for following, _ in after:
            if following is not None and following not in known and following not in seen:
                seen.add(following)
                waiting.append(following)
        if not after and type(node) is leaf_node:
            leaf: Tensor = node.variable  # type: ignore[attr-defined]  # a leaf's node has it
            if not any(leaf is x for x in own):
                found.append(leaf)
    return found


@cache
def _leaf_node() -> type:
    with torch.enable_grad():
        return type(node_of(torch.zeros((), requires_grad=True)))


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
