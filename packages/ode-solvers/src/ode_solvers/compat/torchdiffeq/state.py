"""The state as torchdiffeq takes it: a tensor, or a tuple of tensors of any floating dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import ArgumentError
from ode_core.layout import Layout

State = Any
"""A tensor, or a tuple of tensors."""


def promoted(y0: State) -> State:
    """Return y0 with the entries of a tuple in their common dtype, in which they are solved."""
    if isinstance(y0, Tensor):
        return y0
    leaves = tuple(y0)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ArgumentError(f"y0 is a tensor or a tuple of tensors; got {y0!r:.60}")
    dtype = leaves[0].dtype
    for leaf in leaves[1:]:
        dtype = torch.promote_types(dtype, leaf.dtype)
    return tuple(leaf.to(dtype) for leaf in leaves)


class Function:
    """The user's func with the manners that the core asks of f.

    torchdiffeq copies what func returns into buffers of its own, so that any shape of the right
    size and any dtype will do; here it is brought into the shape and dtype of the state. The time
    comes in the state's real dtype.
    """

    def __init__(self, func: Callable[..., Any], y0: State) -> None:
        self.func = func
        self._shapes = (y0.shape,) if isinstance(y0, Tensor) else tuple(y.shape for y in y0)
        self._single = isinstance(y0, Tensor)
        self._dtype = y0.dtype if self._single else y0[0].dtype

    @property
    def __self__(self) -> Any:
        """The module behind func, if any, whose parameters get gradients: as a bound method has."""
        return getattr(self.func, "__self__", self.func)

    def __call__(self, t: Tensor, y: State) -> State:
        """Return dy/dt, with the structure, shapes and dtype of `y`."""
        out = self.func(t, y)
        if self._single:
            return self._fitted(out, self._shapes[0])
        return tuple(self._fitted(x, s) for x, s in zip(out, self._shapes, strict=True))

    def _fitted(self, out: Any, shape: torch.Size) -> Any:
        if not isinstance(out, Tensor):
            return out
        if out.shape != shape:
            out = out.reshape(shape) if out.numel() == shape.numel() else out.expand(shape).clone()
        return out if out.dtype == self._dtype else out.to(self._dtype)


def packed_tolerance(value: Any, y0: State, name: str) -> float | Tensor:
    """Return a tolerance as a number, or as a tensor that fits the packed state.

    For a tuple y0 it may be one number or tensor for each of its entries. Raises ArgumentError.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        raise ArgumentError(f"{name} cannot require a gradient; pass {name}.detach()")
    device, single = (y0 if isinstance(y0, Tensor) else y0[0]).device, isinstance(y0, Tensor)
    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0):
        return float(value)
    if single:
        return torch.as_tensor(value, device=device)
    parts = list(value)
    if len(parts) != len(y0):
        raise ArgumentError(f"a tuple of {name} has an entry for each of y0's {len(y0)} tensors; "
                            f"got {len(parts)}")  # fmt: skip
    spread = [
        torch.as_tensor(part, device=device).reshape(-1).expand(y.numel())
        for part, y in zip(parts, y0, strict=True)
    ]
    return torch.cat(spread)


@dataclass(frozen=True)
class Shape:
    """How a state lies packed: as itself, or the entries of a tuple one after the other."""

    layout: Layout
    dtype: torch.dtype

    @classmethod
    def of(cls, y0: State) -> Shape:
        """Return the shape of a promoted state, and its real dtype."""
        layout, packed = Layout.of(y0)
        return cls(layout, packed.dtype.to_real())

    @property
    def least(self) -> float:
        """The smallest relative error that the dtype, in which 16 bits are 32, can hold."""
        return torch.finfo(torch.promote_types(self.dtype, torch.float32)).eps

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of entries of each tensor of the state."""
        return tuple(shape.numel() for shape in self.layout.shapes)

    def tuple_of(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Return the state's tensors as a tuple, also of a single one."""
        whole = self.layout.unpack(packed)
        return (whole,) if isinstance(whole, Tensor) else tuple(whole)

    def unpack(self, packed: Tensor) -> State:
        """Return the state as func gets it."""
        return self.layout.unpack(packed)
