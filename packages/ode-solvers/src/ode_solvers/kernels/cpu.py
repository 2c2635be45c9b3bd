"""In-place chains with host scalars: no stacking, no copies, one scalar read for each error norm.

It runs on every device; on the CPU it is the fastest that torch operations allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import Tolerance
from ode_core.rows import along
from ode_solvers.kernels.reference import wide
from ode_solvers.tableau import Dense, Row


@dataclass(frozen=True)
class Chain:
    """y + h sum w k as one fresh tensor to which every further term is added in place.

    A weight is a host number, so autograd keeps nothing for the backward pass.
    """

    name: str = "cpu"

    def prepare(self, dt: float | Tensor, y: Tensor) -> float | Tensor:
        """Return the step size as it is, `[B]` ones as `[B, 1, ...]`."""
        return along(dt, wide(y)) if isinstance(dt, Tensor) else dt

    def combine(self, y: Tensor, h: float | Tensor, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k."""
        (index, weight), *rest = row
        if isinstance(h, Tensor):
            total = torch.addcmul(wide(y), h, _relative(row, ks), value=weight)
        else:
            total = torch.add(wide(y), wide(ks[index]), alpha=h * weight)
            for index, weight in rest:
                total.add_(ks[index], alpha=h * weight)
        return total if total.dtype == y.dtype else total.to(y.dtype)

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
        if y0.numel() == 0:
            return y, tuple(tolerance.norm(y, y0, y) for _ in errors)
        with torch.no_grad():
            allowed = tolerance.scale(y0, y)
            return y, tuple(_norm(row, h, ks, y, allowed, tolerance) for row in errors)

    def outputs(
        self,
        y: Tensor,
        dt: Tensor,
        dense: Dense,
        ks: Sequence[Tensor],
        rows: Tensor,
        theta: Tensor,
    ) -> Tensor:
        """Return the continuous output of rows, at their thetas."""
        weights = (dense.weights_at(theta) * dt[rows]).to(y.dtype.to_real())
        state = y[rows]
        columns = weights.view(*weights.shape, *(1,) * (y.dim() - 1)).unbind(0)
        for (index, _), weight in zip(dense.used, columns, strict=True):
            state = torch.addcmul(state, weight, ks[index][rows])
        return state


def _norm(
    row: Row,
    h: float | Tensor,
    ks: Sequence[Tensor],
    y: Tensor,
    allowed: Tensor,
    tolerance: Tolerance,
) -> Any:
    """Return the norm of h sum w k over what is allowed."""
    if isinstance(h, Tensor):
        ratio, weight = torch.mul(_relative(row, ks), h), row[0][1]
    else:
        ratio, weight = _sum([(index, h * weight) for index, weight in row], ks), 1.0
    # An infinite state has an infinite allowance; 0 times it is NaN, and refused.
    ratio.add_(y, alpha=0.0)
    ratio = ratio.abs() if ratio.is_complex() else ratio
    norm = tolerance.root_mean_square(ratio.div_(allowed))
    return norm if weight == 1.0 else norm * abs(weight)


def _sum(row: Sequence[tuple[int, float]], ks: Sequence[Tensor]) -> Tensor:
    (index, weight), *rest = row
    total = torch.mul(wide(ks[index]), weight)
    for index, weight in rest:
        total.add_(ks[index], alpha=weight)
    return total


def _relative(row: Row, ks: Sequence[Tensor]) -> Tensor:
    """Return the sum of a row over its first weight, which saves an operation."""
    (index, first), *rest = row
    total = wide(ks[index])
    for place, (index, weight) in enumerate(rest):
        if place:
            total.add_(ks[index], alpha=weight / first)
        else:
            total = torch.add(total, ks[index], alpha=weight / first)
    return total
