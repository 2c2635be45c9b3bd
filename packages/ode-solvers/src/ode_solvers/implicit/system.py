"""A state as the real vectors that Newton's method works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.protocols import VectorField


@dataclass(frozen=True, eq=False)
class System:
    """f on `[B, n]` real rows: B systems that do not know each other, of n equations each.

    A state that is one system has B = 1. A complex state is its real and imaginary parts, because
    f need not be holomorphic.
    """

    field: VectorField
    like: Tensor
    count: int

    @classmethod
    def of(cls, field: VectorField, y: Tensor, *, batched: bool) -> System:
        """Return the system of a state `[...]`, or of one system a sample, `[B, ...]`."""
        return cls(field, y, len(y) if batched and y.dim() > 0 else 1)

    @property
    def size(self) -> int:
        """The number n of real equations of each system."""
        real = self.like.numel() * (2 if self.like.is_complex() else 1)
        return real // max(self.count, 1)

    def rows(self, y: Tensor) -> Tensor:
        """Return a state as `[B, n]` real rows."""
        if y.is_complex():
            y = torch.view_as_real(y.resolve_conj())
        return y.reshape(self.count, -1)

    def state(self, rows: Tensor) -> Tensor:
        """Return `[B, n]` rows as a state."""
        if self.like.is_complex():
            return torch.view_as_complex(rows.reshape(*self.like.shape, 2).contiguous())
        return rows.reshape(self.like.shape)

    def slope(self, t: Any, rows: Tensor) -> Tensor:
        """Return f at a time and `[B, n]` rows, as `[B, n]` rows."""
        return self.rows(self.field(t, self.state(rows)))


def node_time(t0: Any, t1: Any, node: float) -> Any:
    """Return t0 + node (t1 - t0), each end itself to the bit."""
    # t0 + (t1 - t0) may round beyond the end.
    return t0 if node == 0.0 else t1 if node == 1.0 else t0 + node * (t1 - t0)
