"""The kernel as its formulae read: what the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import Tolerance
from ode_core.rows import along
from ode_solvers.tableau import Row


@dataclass(frozen=True)
class Reference:
    """Plain torch, out of place, one temporary for every term."""

    name: str = "reference"

    def prepare(self, dt: float | Tensor, y: Tensor) -> float | Tensor:
        """Return the step size as it is, `[B]` ones as `[B, 1, ...]`."""
        return along(dt, wide(y)) if isinstance(dt, Tensor) else dt

    def combine(self, y: Tensor, h: float | Tensor, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k."""
        total = wide(y)
        for index, weight in row:
            total = total + (h * weight) * wide(ks[index])
        return total.to(y.dtype, copy=total is y)

    def finish(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: float | Tensor,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the new state and the norm of each error estimate."""
        y = self.combine(y0, h, solution, ks) if y1 is None else y1
        with torch.no_grad():
            zero = torch.zeros_like(wide(y0))
            estimates = [self.combine(zero, h, row, ks) for row in errors]
            return y, tuple(tolerance.norm(estimate, y0, y) for estimate in estimates)


def wide(x: Tensor) -> Tensor:
    """Return 16-bit tensors as float32 and others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
