"""The forward solve with per-sample steps: each sample's states at its own times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.interpolation import interpolant
from ode_core.loops.sample_events import SampleEvents, SampleWatch
from ode_core.loops.sample_march import SampleStep, march_samples
from ode_core.loops.sample_part import SampleLog
from ode_core.loops.sample_quadrature import Integrals
from ode_core.rows import placed, where
from ode_core.samples import SampleProblem, Stops

if TYPE_CHECKING:
    from collections.abc import Callable

    from ode_core.protocols import Interpolant, Plan, Step


@dataclass(frozen=True, eq=False)
class SamplePiece:
    """One step's stretch of the solutions of the samples `rows`, up to `until`, where accepted."""

    rows: Tensor
    t0: Tensor
    t1: Tensor
    until: Tensor
    accepted: Tensor
    at: Interpolant


@dataclass(eq=False)
class SampleTrajectory:
    """The solutions `[T, B, ...]`, NaN where a time was not reached, and how they came.

    `ended` are the events that stopped samples, `seen` those that did not, in the order in which
    they were met. `integrals` is `[T, B, ...]`, `total`, `[B, ...]`, up to each end.
    """

    ys: Tensor
    log: SampleLog
    pieces: list[SamplePiece] = field(default_factory=list)
    ended: SampleEvents | None = None
    seen: list[SampleEvents] = field(default_factory=list)
    integrals: Tensor | None = None
    total: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Due:
    """Outputs that lie in one step: the `[n]` rows of the step's batch, and their columns in `t`.

    `theta` is `[b]`, where in the step they lie, with `inner` `[b]` for those before its end.
    """

    rows: Tensor
    columns: Tensor
    theta: Tensor
    inner: Tensor

    def states(self, step: Step, at: Interpolant | None) -> Tensor:
        """Return the states, `[n, ...]`; `at` is the step's interpolant where any is inner."""
        states = step.y
        if at is not None and bool(self.inner.any()):
            states = where(self.inner, at(self.theta.clamp(0.0, 1.0)), states)
        return states[self.rows]


def forward_samples(
    problem: SampleProblem,
    plan: Plan,
    *,
    on_step: Callable[[SampleStep, list[Due]], None] | None = None,
    watched: Callable[[Any, Tensor], Tensor] | None = None,
) -> SampleTrajectory:
    """Solve and return each sample's states at its times; gradients are recorded if enabled.

    `on_step` sees every attempted step with the outputs that lie in it. `watched` is called in
    place of the problem's field, which it calls in turn.
    """
    f = problem.field if watched is None else watched
    log = SampleLog(len(problem.y0), problem.ts.device)
    outputs = _Outputs(problem)
    made = SampleTrajectory(problem.y0, log)
    if problem.y0.numel() == 0:
        made.ys = outputs.gathered()
        return made
    stops = Stops.of(problem)
    watch = SampleWatch(problem, stops.begin) if problem.given.events else None
    steps = march_samples(f, problem, stops, plan, log)
    halted: Tensor | None = None
    integrals = Integrals(problem) if problem.given.integrand is not None else None
    while True:
        try:
            step = steps.send(halted) if halted is not None else next(steps)
        except StopIteration:
            break
        halted = None
        at: Interpolant | None = None
        if plan.dense or watch is not None or integrals is not None:
            span = (step.t0, step.t1)
            at = interpolant(plan.solver, f, span, step.y0, step.step)
        until = step.until
        if watch is not None and at is not None:
            until, halted = watch.look(step, at)
        if plan.dense and at is not None:
            ends = (step.t0, step.t1, until)
            made.pieces.append(SamplePiece(step.rows, *ends, step.accepted, at))
        dues = outputs.due(step, until)
        if at is None and any(bool(due.inner.any()) for due in dues):
            at = interpolant(plan.solver, f, (step.t0, step.t1), step.y0, step.step)
        outputs.take(step, dues, at, integrals)
        if on_step is not None:
            on_step(step, dues)
        if integrals is not None and at is not None:
            integrals.advance(step, until, at)
    problem.field.forget()
    if watch is not None:
        made.ended, made.seen = watch.ended, watch.seen
    made.ys = outputs.gathered()
    if integrals is not None:
        made.integrals, made.total = integrals.gathered()
    return made


class _Outputs:
    """Collects states at the requested times of every sample."""

    def __init__(self, problem: SampleProblem) -> None:
        self._problem = problem
        times = problem.ts.detach()
        self._times = times
        # Rising for all, so that one search serves both directions; padding is never reached.
        self._ahead = torch.where(times.isnan(), math.inf, times * problem.direction[:, None])
        start = (problem.start * problem.direction)[:, None]
        self._next = torch.searchsorted(self._ahead.contiguous(), start, right=True)[:, 0]
        self._recorded = torch.is_grad_enabled()
        self._places: list[tuple[Tensor, Tensor]] = []
        self._states: list[Tensor] = []
        y0 = problem.y0
        self._all = torch.full(
            (times.shape[1], *y0.shape), math.nan, dtype=y0.dtype, device=y0.device
        )
        rows = torch.arange(len(y0), device=times.device)
        for k in range(int(self._next.max()) if len(y0) else 0):
            due = (self._next > k).nonzero()[:, 0]
            self._put(torch.full_like(due, k), rows[due], y0[due])

    def due(self, step: SampleStep, until: Tensor) -> list[Due]:
        """Return what lies in this step; rows that were not accepted have nothing."""
        rows = step.rows
        sign = self._problem.direction[rows]
        reached = torch.searchsorted(
            self._ahead[rows].contiguous(), (until * sign)[:, None], right=True
        )[:, 0]
        first = self._next[rows]
        count = torch.where(step.accepted, reached - first, 0).clamp(min=0)
        self._next[rows] = first + count
        dues = []
        for k in range(int(count.max())):
            some = count > k
            column = torch.where(some, first + k, 0)
            t = self._times[rows, column]
            inner = some & ((t - step.t1) * sign < 0.0)
            theta = torch.where(inner, (t - step.t0) / (step.t1 - step.t0), 1.0)
            which = some.nonzero()[:, 0]
            dues.append(Due(which, column[which], theta, inner))
        return dues

    def take(
        self,
        step: SampleStep,
        dues: list[Due],
        at: Interpolant | None,
        integrals: Integrals | None,
    ) -> None:
        """Take the states that lie in this step."""
        for due in dues:
            self._put(due.columns, step.rows[due.rows], due.states(step.step, at))
            if integrals is not None and at is not None:
                some = torch.zeros_like(step.accepted)
                some[due.rows] = True
                column = torch.zeros_like(step.rows)
                column[due.rows] = due.columns
                t = torch.where(some, self._times[step.rows, column], step.t0)
                integrals.take(step, t, at, column, some)

    def _put(self, columns: Tensor, rows: Tensor, states: Tensor) -> None:
        if not self._recorded:
            self._all[columns, rows] = states
            return
        self._places.append((columns, rows))
        self._states.append(states)

    def gathered(self) -> Tensor:
        """Return the states, `[T, B, ...]`, NaN where a time was not reached."""
        return placed(self._all, self._places, self._states)
