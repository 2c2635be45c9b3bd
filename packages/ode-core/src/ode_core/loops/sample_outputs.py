"""The forward solve with per-sample steps: each sample's states at its own times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ode_core.interpolation import at_rows, interpolant
from ode_core.loops.sample_events import SampleEvents, SampleWatch
from ode_core.loops.sample_march import SampleStep, march_samples
from ode_core.loops.sample_part import SampleLog
from ode_core.loops.sample_quadrature import Integrals
from ode_core.numbers import choose, joined, maybe, numbers, places, tensor
from ode_core.rows import placed, where
from ode_core.samples import SampleProblem, Stops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


class Due(NamedTuple):
    """Outputs that lie in one step: the `[n]` rows of the step's batch, and their columns in `t`.

    `samples` are the rows' samples. `theta` is `[n]`, where in the step they lie, with `inner`
    `[n]` for those before its end; `any_inner` and `all_inner` sum that up. First comes the first
    output of each row, then the second, and so on: so many as `turns` says.
    """

    rows: Tensor
    columns: Tensor
    samples: Tensor
    theta: Tensor
    inner: Tensor
    any_inner: bool
    all_inner: bool
    turns: tuple[int, ...]

    def states(self, step: Step, at: Interpolant | None) -> Tensor:
        """Return the states, `[n, ...]`; `at` is the step's interpolant where any is inner."""
        if at is None or not self.any_inner:
            return step.y.index_select(0, self.rows)
        states = at_rows(at, step.y, self.rows, self.theta, self.turns)
        if self.all_inner:
            return states
        # The end of a step is the step's own, to the bit.
        mixed: Tensor = where(self.inner, states, step.y.index_select(0, self.rows))
        return mixed


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
        made.ys = torch.stack([problem.y0] * problem.ts.shape[-1])
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
            at = _interpolant(problem, plan, f, step, log)
        until = step.until
        if watch is not None and at is not None:
            until, halted = watch.look(step, at)
        if plan.dense and at is not None:
            ends = (step.t0, step.t1, until)
            made.pieces.append(SamplePiece(step.rows, *ends, step.accepted, at))
        dues = outputs.due(step, until)
        if at is None and any(due.any_inner for due in dues):
            at = _interpolant(problem, plan, f, step, log, dues)
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


def _interpolant(
    problem: SampleProblem,
    plan: Plan,
    f: Callable[[Any, Tensor], Tensor],
    step: SampleStep,
    log: SampleLog,
    dues: Sequence[Due] = (),
) -> Interpolant:
    """Return the solution within a step; its calls of f count for the rows that it is made for.

    These are the accepted ones, or where `dues` are given those with outputs before their end.
    """
    calls = problem.field.calls
    at = interpolant(plan.solver, f, (step.t0, step.t1), step.y0, step.step)
    calls = problem.field.calls - calls
    if calls:
        made_for = step.accepted
        if dues:
            made_for = torch.zeros_like(step.accepted)
            for due in dues:
                made_for[due.rows[due.inner]] = True
        log.f_calls[step.rows[made_for]] += calls
    return at


class _Outputs:
    """Collects states at the requested times of every sample."""

    def __init__(self, problem: SampleProblem) -> None:
        self._problem = problem
        grid, batch = numbers(problem.grid), len(problem.y0)
        self._times, self._sign = numbers(problem.ts), numbers(problem.direction)
        # Rising for all, so that one comparison serves both directions; padding is never reached,
        # nor is what comes after the last.
        ahead = choose(grid == grid, grid * self._sign[: len(grid), None], math.inf)
        table = pad(tensor(ahead), (0, 1), value=math.inf)
        # At the start every time is due that is the start.
        after = tensor((ahead <= ahead[:, :1]).sum(1))
        soon = table.gather(1, after[:, None])[:, 0]
        self._ahead = numbers(table.expand(batch, -1))
        self._next, self._soon = (numbers(x.expand(batch).clone()) for x in (after, soon))
        self._recorded = torch.is_grad_enabled()
        self._places: list[tuple[Tensor, Tensor]] = []
        self._states: list[Tensor] = []
        y0 = problem.y0
        self._all = torch.full(
            (problem.ts.shape[1], *y0.shape), math.nan, dtype=y0.dtype, device=y0.device
        )
        for k in range(int(after.max()) if batch else 0):
            due = tensor(places(self._next > k))
            self._put(torch.full_like(due, k), due, y0[due])

    def due(self, step: SampleStep, until: Tensor) -> list[Due]:
        """Return what lies in this step, if anything; rows that were not accepted have nothing."""
        clock, rows = step.clock, step.clock.rows
        sign, soon = self._sign[rows], self._soon[rows]
        reached = (clock.until if until is step.until else numbers(until)) * sign
        found = clock.accepted & (soon <= reached)
        if not maybe(found):
            return []
        turns = []
        which = places(found)
        while len(which):
            samples = rows[which]
            columns = self._next[samples]
            turns.append((which, samples, columns))
            soon = self._ahead[samples, columns + 1]
            self._next[samples], self._soon[samples] = columns + 1, soon
            which = which[soon <= reached[which]]
        if not turns:
            return []
        which, samples, columns = (joined(parts) for parts in zip(*turns, strict=True))
        start = clock.t0[which]
        theta = (self._times[samples, columns] - start) / (clock.t1[which] - start)
        # What lies beyond is on the far side of a jump.
        inner = theta < 1.0
        sizes = tuple(len(turn[0]) for turn in turns)
        summary = (tensor(inner), maybe(inner), not maybe(~inner), sizes)
        return [Due(tensor(which), tensor(columns), tensor(samples), tensor(theta), *summary)]

    def take(
        self,
        step: SampleStep,
        dues: list[Due],
        at: Interpolant | None,
        integrals: Integrals | None,
    ) -> None:
        """Take the states that lie in this step."""
        for due in dues:
            self._put(due.columns, due.samples, due.states(step.step, at))
            if integrals is None or at is None:
                continue
            for rows, column in zip(
                due.rows.split(due.turns), due.columns.split(due.turns), strict=True
            ):
                columns = torch.zeros_like(step.rows).index_copy_(0, rows, column)
                some = torch.zeros_like(step.accepted).index_fill_(0, rows, True)
                times = self._problem.ts.detach()[step.rows, columns]
                t = torch.where(some, times, step.t0)
                integrals.take(step, t, at, columns, some)

    def _put(self, columns: Tensor, rows: Tensor, states: Tensor) -> None:
        if not self._recorded:
            self._all[columns, rows] = states
            return
        self._places.append((columns, rows))
        self._states.append(states)

    def gathered(self) -> Tensor:
        """Return the states, `[T, B, ...]`, NaN where a time was not reached."""
        return placed(self._all, self._places, self._states)
