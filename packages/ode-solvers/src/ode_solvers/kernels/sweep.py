"""Differentiating the sums of a step: one node a stage, with the transposed row of its slope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ode_solvers.tableau import Row

Weigh = Callable[[float, Row, Mapping[int, Tensor]], Tensor]
"""Returns h sum_(i, w) in row w xs[i] in fresh memory, for tensors of one shape and dtype."""


class Sweep:
    """The sums of one step that is recorded: their rows and the step size, and no tensor.

    The slope k_i enters every later sum, so that its gradient is h sum_j a_ji v_j over the
    gradients v_j of those sums: a row of the transposed table, and one pass over memory, where
    autograd by itself would add term to term. The nodes hang together by tokens, 0-d tensors that
    carry the number of the backward pass: a slope's node runs after those of all later sums.

    Source: Hager, Runge-Kutta methods in optimal control and the transformed adjoint system,
    Numerische Mathematik 87 (2000), section 2.
    """

    __slots__ = ("begun", "columns", "h", "passes", "rows", "weigh")

    def __init__(self, h: float, weigh: Weigh) -> None:
        self.h, self.weigh = h, weigh
        self.rows: tuple[Row, ...] = ()
        self.columns: tuple[Row, ...] = ()
        self.begun = 0
        # The gradients of the sums that each backward pass has met so far.
        self.passes: dict[int, dict[int, Tensor]] = {}

    def pulled(self, row: Row, found: Mapping[int, Tensor], h: float) -> Tensor | None:
        """Return h sum_(j, w) in row w v_j over the gradients that there are."""
        if len(found) <= len(self.rows) and not all(j in found for j, _ in row):
            row = tuple((j, weight) for j, weight in row if j in found)
        if not row:
            return None
        if not torch.is_grad_enabled():
            return self.weigh(h, row, found)
        # A second derivative goes through these operations.
        (j, weight), *rest = row
        total = found[j] * (h * weight)
        for j, weight in rest:
            total = total + found[j] * (h * weight)
        return total


def joined(
    sweep: Sweep, before: Tensor, k: Tensor, row: Row, total: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the next sum of a step, which `total` makes, and the token for the one after.

    `k` is the slope that is new in it, `before` the token of the sum before; the state where there
    is none.
    """
    index = len(sweep.rows)
    sweep.rows = (*sweep.rows, row)
    made: tuple[Tensor, Tensor] = _Sum.apply(sweep, index, total, k, before)
    return made


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sweep: Sweep, index: int, total: Callable[[], Tensor], k: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        del k, before
        ctx.sweep, ctx.index = sweep, index
        ctx.set_materialize_grads(False)
        return total(), torch.empty((), dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, token: Tensor | None) -> tuple[Any, ...]:
        sweep, index = ctx.sweep, ctx.index
        if token is None:
            sweep.begun += 1
            number = sweep.begun
            sweep.passes[number] = {}
            token = torch.full((), float(number), dtype=torch.float64)
        else:
            number = int(token)
        found = sweep.passes[number]
        if grad is not None:
            found[index] = grad
        sweep.columns = sweep.columns or _columns(sweep.rows)
        slope = sweep.pulled(sweep.columns[index], found, sweep.h)
        if index:
            return None, None, None, slope, token
        del sweep.passes[number]
        return None, None, None, slope, sweep.pulled(sweep.columns[-1], found, 1.0)


@cache
def _columns(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the transposed rows, one for each slope, and last that of the state itself."""
    weights = [dict(row) for row in rows]
    slopes = range(len(rows))
    columns = [
        tuple((j, found[i]) for j, found in enumerate(weights) if i in found) for i in slopes
    ]
    return (*columns, tuple((j, 1.0) for j in slopes))
