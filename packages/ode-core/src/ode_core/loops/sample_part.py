"""What a solve with per-sample steps keeps of each sample: its place, its step, its cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.control import FixedSteps, first_steps
from ode_core.errors import ArgumentError
from ode_core.rows import take
from ode_core.tolerance import SampleTolerance

if TYPE_CHECKING:
    from ode_core.protocols import Plan
    from ode_core.samples import SampleProblem, Stops

Attempt = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of attempted steps, `[n]` each: start, signed size, error ratio, accepted or not, sample."""


class SampleLog:
    """What the loop reports for each of B samples: counts, how it ended, and every attempt."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self.f_calls = torch.zeros(batch, dtype=torch.long, device=device)
        self.accepted = torch.zeros_like(self.f_calls)
        self.rejected = torch.zeros_like(self.f_calls)
        self.status = torch.zeros_like(self.f_calls)
        self.t = torch.full((batch,), math.nan, dtype=torch.float64, device=device)
        self.dt = torch.full_like(self.t, math.nan)
        self.attempts: list[Attempt] = []


@dataclass
class Part:
    """The part of the batch that is still being solved, one row a sample."""

    rows: Tensor
    t: Tensor
    t0: Tensor
    dt: Tensor
    sign: Tensor
    y: Tensor
    carry: Any
    memory: Any
    stops: Stops
    stop: Tensor
    attempts: Tensor
    done: Tensor
    tolerance: SampleTolerance | None

    def kept(self, rows: Tensor) -> Part:
        """Return the given rows, `[n]` indices into this part."""
        names = (
            "rows",
            "t",
            "t0",
            "dt",
            "sign",
            "y",
            "carry",
            "memory",
            "stop",
            "attempts",
            "done",
        )
        return replace(
            self,
            **{name: take(getattr(self, name), rows) for name in names},
            stops=self.stops.rows(rows),
            tolerance=None if self.tolerance is None else self.tolerance.rows(rows),
        )


class Counted:
    """The field, noting each call with the samples that take part in it."""

    def __init__(
        self, f: Callable[[Any, Tensor], Tensor], problem: SampleProblem, log: SampleLog
    ) -> None:
        self._f, self._log = f, log
        rows = torch.arange(len(problem.y0), device=log.f_calls.device)
        self.active = (torch.ones_like(rows, dtype=torch.bool), rows)

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        """Return what the field returns."""
        mask, rows = self.active
        self._log.f_calls[rows] += mask
        return self._f(t, y)


def begin(f: Counted, problem: SampleProblem, stops: Stops, plan: Plan, log: SampleLog) -> Part:
    """Return all samples at their start, with the sizes of their first steps."""
    y, t = problem.y0, stops.begin
    rows = torch.arange(len(y), device=t.device)
    done = problem.start == problem.end
    f.active = (~done, rows)
    tolerance = plan.tolerance
    assert tolerance is None or isinstance(tolerance, SampleTolerance)
    carry = plan.solver.init(f, t, y)
    memory = None
    if isinstance(plan.controller, FixedSteps):
        if plan.controller.grid is not None:
            raise ArgumentError(
                "FixedSteps(grid=...) is one grid for all; with stepping='per_sample' pass dt=..."
            )
        dt = _sizes(plan.dt, t)
    else:
        memory = plan.controller.init()
        if plan.start is not None and plan.start.memory is not None:
            memory = plan.start.memory
        given = plan.dt if plan.start is None or plan.start.dt is None else plan.start.dt
        dt = _first(f, y, (t, stops.end[:, 0]), carry, plan) if given is None else _sizes(given, t)
    zeros, sign = torch.zeros_like(rows), problem.direction
    return Part(
        rows, t, problem.start, dt, sign, y, carry, memory, stops, zeros, zeros, done, tolerance
    )


def _sizes(dt: Any, t: Tensor) -> Tensor:
    sizes = torch.as_tensor(dt, dtype=torch.float64, device=t.device).expand_as(t)
    # A sample whose step size is not known has finished before its first step.
    return torch.where(sizes.isnan(), 1.0, sizes)


def _first(f: Counted, y: Tensor, span: tuple[Tensor, Tensor], carry: Any, plan: Plan) -> Tensor:
    slope = getattr(plan.solver, "slope", None)
    held = slope(carry) if slope is not None else None
    if held is None:
        with torch.no_grad():
            held = f(span[0], y)
    assert plan.tolerance is not None  # the front door gives every adaptive plan one
    return first_steps(f, span, y, held, plan.solver.order, plan.tolerance)
