"""The forward solve: states at the requested times, by the steps' own polynomials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch

from ode_core.clock import moving
from ode_core.control import FixedSteps
from ode_core.errors import UnsupportedError
from ode_core.loops.collected import Collected
from ode_core.loops.device_march import ON_DEVICE, march_on_device
from ode_core.loops.march import Accepted, Again, Log, march, stops_between
from ode_core.loops.sample_outputs import SampleTrajectory, forward_samples
from ode_core.problem import neighbours
from ode_core.samples import SampleProblem
from ode_core.solution import End, Status, Trajectory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from ode_core.loops.march import Stop
    from ode_core.problem import Problem
    from ode_core.protocols import Plan


def stops_of(problem: Problem) -> list[Stop]:
    """Return where steps of this problem must end: at both sides of jumps, and at the end."""
    sides = [neighbours(jump, problem.time_dtype, problem.direction) for jump in problem.jumps]
    return stops_between(problem.times[0], problem.times[-1], sides)


@overload
def forward(
    problem: Problem,
    plan: Plan,
    *,
    on_step: Callable[[Accepted, list[int]], None] | None = None,
    on_rows: Callable[[Accepted, dict[int, float]], None] | None = None,
    watched: Callable[[Any, Tensor], Tensor] | None = None,
) -> Trajectory: ...


@overload
def forward(problem: SampleProblem, plan: Plan) -> SampleTrajectory: ...


def forward(
    problem: Problem | SampleProblem,
    plan: Plan,
    *,
    on_step: Callable[[Accepted, list[int]], None] | None = None,
    on_rows: Callable[[Accepted, dict[int, float]], None] | None = None,
    watched: Callable[[Any, Tensor], Tensor] | None = None,
) -> Trajectory | SampleTrajectory:
    """Solve and return the states at the requested times, those of events and quadrature nodes.

    `on_step` sees every accepted step with the indices of the states that it answered for, and
    `on_rows` with their times, too.
    `watched` is called in place of the problem's field, which it calls in turn. Gradients are
    recorded if they are enabled. A `SampleProblem` gives a `SampleTrajectory`.
    """
    if isinstance(problem, SampleProblem):
        return forward_samples(problem, plan)
    field, log = problem.field, Log(problem.stats)
    f = field if watched is None else watched
    if problem.y0.numel() == 0:
        every = tuple(range(len(problem.times)))
        ys = torch.stack([problem.y0] * len(problem.times))
        return Trajectory(ys, log.stats, times=problem.times, wanted=every)
    calls = field.calls
    plan = moving(plan, problem.clock)
    rows = Collected(problem, plan)
    steps = _steps(f, problem, plan, log, seen=bool(on_step or watched))
    accepted = next(steps, None)
    while accepted is not None:
        concerns, reached = rows.concerns(accepted), []
        again = rows.look(f, accepted) if concerns else None
        if concerns and again is None:
            reached = rows.take(accepted)
        if on_step is not None and again is None:
            on_step(accepted, reached)
        if on_rows is not None and again is None:
            on_rows(accepted, {row: rows.times[row] for row in reached})
        if rows.halted is not None:
            log.status, log.stopped_at = Status.EVENT, rows.halted
            break
        try:
            accepted = steps.send(again)
        except StopIteration:
            break
    log.stats.f_calls += field.calls - calls
    field.forget()
    kept = len(rows.states)
    if log.status is Status.NOT_FINITE and isinstance(plan.controller, FixedSteps):
        kept = _finite(rows.states)
    return Trajectory(
        torch.stack(rows.states[:kept]),
        log.stats,
        log.status,
        log.stopped_at,
        log.attempts,
        rows.pieces,
        tuple(rows.times[:kept]),
        tuple(row for row in rows.wanted if row < kept),
        tuple(rows.events),
        tuple(rows.nodes),
        End(log.dt, log.carry, log.memory),
        "" if log.diagnosis is None else log.diagnosis.sentence,
        tuple(rows.switches),
    )


def _steps(
    f: Callable[[Any, Tensor], Tensor],
    problem: Problem,
    plan: Plan,
    log: Log,
    *,
    seen: bool,
) -> Generator[Accepted, Tensor | Again | None, None]:
    """Return the loop that makes the steps; on the device it shows them to nobody."""
    begin, end = problem.span
    stops = stops_of(problem)
    stops[-1] = stops[-1]._replace(end=end)
    if plan.graph is None:
        return march(f, problem.y0, begin, stops, plan, log, problem.times[0])
    if seen:
        raise UnsupportedError(ON_DEVICE)
    return march_on_device(problem, plan, log, begin, stops)


def _finite(states: list[Tensor]) -> int:
    """Return how many states come before the first that is not finite."""
    flags = torch.stack([torch.isfinite(state.detach()).all() for state in states]).tolist()
    return flags.index(False) if False in flags else len(flags)
