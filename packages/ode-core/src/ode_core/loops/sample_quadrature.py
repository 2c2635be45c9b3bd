"""Integrals along the solutions of samples with their own steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.loops.quadrature import GAUSS
from ode_core.rows import placed, where

if TYPE_CHECKING:
    from collections.abc import Callable

    from ode_core.loops.sample_march import SampleStep
    from ode_core.protocols import Interpolant
    from ode_core.samples import SampleProblem


class Integrals:
    """Integrals of the integrand of every sample, up to its times."""

    def __init__(self, problem: SampleProblem) -> None:
        self._problem = problem
        self._sum: Tensor | None = None
        self._places: list[tuple[Tensor, Tensor]] = []
        self._values: list[Tensor] = []

    def _g(self, t: Tensor, y: Tensor) -> Tensor:
        problem = self._problem
        field = problem.field
        g: Any = problem.given.integrand
        value: Tensor = g(field.time(t), field.layout.unpack(field.seen(y)), *problem.given.args)
        return value

    def take(
        self, step: SampleStep, t: Tensor, at: Interpolant, columns: Tensor, due: Tensor
    ) -> None:
        """Note the integrals up to `t`, `[B]`, for the rows that are due."""
        value = over(self._g, at, step.t0, step.t1, _inside(step, t))
        if self._sum is not None:
            value = value + self._sum
        which = due.nonzero()[:, 0]
        self._places.append((columns[which], step.rows[which]))
        self._values.append(value[which])

    def advance(self, step: SampleStep, until: Tensor, at: Interpolant) -> None:
        """Add the integrals over the whole step of the rows that were accepted."""
        end = _inside(step, torch.where(step.accepted, until, step.t0))
        part = over(self._g, at, step.t0, step.t1, end)
        part = where(step.accepted, part, torch.zeros_like(part))
        self._sum = part if self._sum is None else self._sum + part

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Return the integrals `[T, B, ...]` and those up to where each sample ended, `[B, ...]`.

        They are zero at the start, NaN where a time was not reached.
        """
        problem = self._problem
        total = self._sum
        if total is None:
            total = torch.zeros_like(self._g(problem.start, problem.y0))
        times = problem.ts.detach()
        shape = (times.shape[1], *total.shape)
        empty = torch.full(shape, math.nan, dtype=total.dtype, device=total.device)
        at_start = (times == problem.start[:, None]).T
        empty[at_start] = 0.0
        return placed(empty, self._places, self._values), total


def _inside(step: SampleStep, t: Tensor) -> Tensor:
    """Return times cut at the end of the step: a jump's far side is beyond it."""
    beyond = (t - step.t1) * (step.t1 - step.t0) > 0.0
    return torch.where(beyond, step.t1, t)


def over(
    g: Callable[[Tensor, Tensor], Any],
    at: Callable[[Tensor], Tensor],
    t0: Tensor,
    t1: Tensor,
    until: Tensor,
) -> Tensor:
    """Return the integral of g from t0 to `until`, all `[B]`, within one per-sample step to t1."""
    length = torch.where(t1 == t0, 1.0, t1 - t0)
    total: Any = None
    for node, weight in GAUSS:
        t = t0 + node * (until - t0)
        value = g(t, at((t - t0) / length))
        scale = (weight * (until - t0)).to(value.dtype.to_real())
        part = value * scale.view(-1, *(1,) * (value.dim() - 1))
        total = part if total is None else total + part
    result: Tensor = total
    return result
