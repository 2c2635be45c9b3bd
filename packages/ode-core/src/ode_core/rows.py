"""Per-sample stepping: one time, one step size and one verdict for each row of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.dtypes import real


def along(x: Tensor, y: Tensor) -> Tensor:
    """Return numbers `[B]` as `[B, 1, ...]` in the real dtype of `y`, `[B, ...]`, to scale it by.

    A 0-d number scales the whole state. A step size in float64 is rounded to the state's dtype
    only here, where it meets the state.
    """
    if x.dim() == 0:
        return x.to(real(y.dtype))
    return x.to(real(y.dtype)).view((*x.shape, *(1,) * (y.dim() - x.dim())))


def by_row(x: Tensor) -> Tensor:
    """Return `[B, ...]`, or `[B]`, as `[B, n]`."""
    return x.reshape(len(x), -1)


def where(mask: Tensor, yes: Any, no: Any) -> Any:
    """Return the rows of `yes` where `mask`, `[B]`, is true and those of `no` elsewhere.

    `yes` and `no` are tensors with a leading `[B]`, or pytrees of such of one structure.
    """
    if isinstance(yes, Tensor):
        return torch.where(_column(mask, yes), yes, no)
    if type(yes) is tuple:
        return tuple(where(mask, a, b) for a, b in zip(yes, no, strict=True))
    return pytree.tree_map(lambda a, b: torch.where(_column(mask, a), a, b), yes, no)


def take(tree: Any, rows: Tensor) -> Any:
    """Return the given rows, `[n]` indices, of every tensor and NumPy array of a pytree."""
    return pytree.tree_map(_taker(rows), tree)


def placed(into: Tensor, places: list[tuple[Tensor, Tensor]], values: list[Tensor]) -> Tensor:
    """Return `[T, B, ...]` with values `[n, ...]` put in columns and rows, `[n]` each.

    All at once: one scatter for each step would copy the whole in its backward pass.
    """
    if not values:
        return into
    columns, rows = (torch.cat(index) for index in zip(*places, strict=True))
    return into.index_put((columns, rows), torch.cat(values))


def _taker(rows: Tensor) -> Callable[[Any], Any]:
    def taken(x: Any) -> Any:
        if isinstance(x, Tensor) and x.dim():
            return x.index_select(0, rows)
        return x[rows.numpy()] if isinstance(x, np.ndarray) and x.ndim else x

    return taken


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (like.dim() - 1))
