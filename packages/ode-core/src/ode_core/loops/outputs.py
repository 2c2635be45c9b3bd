"""The forward solve: states at the requested times, by the steps' own polynomials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ode_core.control import FixedSteps
from ode_core.interpolation import interpolant
from ode_core.loops.march import Accepted, Log, march, stops_between
from ode_core.problem import neighbours
from ode_core.solution import Piece, Status, Trajectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ode_core.loops.march import Stop
    from ode_core.problem import Problem
    from ode_core.protocols import Plan


def stops_of(problem: Problem) -> list[Stop]:
    """Return where steps of this problem must end: at both sides of jumps, and at the end."""
    sides = [neighbours(jump, problem.time_dtype, problem.direction) for jump in problem.jumps]
    return stops_between(problem.times[0], problem.times[-1], sides)


def forward(
    problem: Problem,
    plan: Plan,
    *,
    on_step: Callable[[Accepted, list[int]], None] | None = None,
    watched: Callable[[float, Tensor], Tensor] | None = None,
) -> Trajectory:
    """Solve and return the states at the requested times, NaN after a failure.

    `on_step` sees every accepted step with the indices of the outputs that it answered for.
    `watched` is called in place of the problem's field, which it calls in turn. Gradients are
    recorded if they are enabled.
    """
    field, log = problem.field, Log(problem.stats)
    f = field if watched is None else watched
    if problem.y0.numel() == 0:
        return Trajectory(torch.stack([problem.y0] * len(problem.times)), log.stats)
    pieces: list[Piece] = []
    calls = field.calls
    states = [problem.y0] * problem.times.count(problem.times[0])
    for accepted in march(f, problem.y0, problem.times[0], stops_of(problem), plan, log):
        within = _within(problem, accepted.until, len(states))
        at = None
        if plan.dense or any(problem.times[i] != accepted.t1 for i in within):
            at = interpolant(plan.solver, f, accepted.span, accepted.y0, accepted.step)
        states += [state_at(accepted, problem.times[i], at) for i in within]
        if plan.dense and at is not None:
            pieces.append(Piece(accepted.t0, accepted.t1, at))
        if on_step is not None:
            on_step(accepted, within)
    if log.status is Status.NOT_FINITE and isinstance(plan.controller, FixedSteps):
        states = _finite_only(states)
    missing = len(problem.times) - len(states)
    states += [torch.full_like(problem.y0, float("nan"))] * missing
    log.stats.f_calls += field.calls - calls
    field.forget()
    return Trajectory(
        torch.stack(states), log.stats, log.status, log.stopped_at, log.attempts, pieces
    )


def _within(problem: Problem, until: float, reached: int) -> list[int]:
    times, direction = problem.times, problem.direction
    end = reached
    while end < len(times) and (times[end] - until) * direction <= 0.0:
        end += 1
    return list(range(reached, end))


def state_at(accepted: Accepted, t: float, at: Callable[[float], Tensor] | None) -> Tensor:
    """Return the state at a time that this step answers for; `at` is its interpolant."""
    t0, t1 = accepted.t0, accepted.t1
    if at is None or t == t1 or (t - t1) * (t1 - t0) > 0.0:
        return accepted.step.y
    return at((t - t0) / (t1 - t0))


def _finite_only(states: list[Tensor]) -> list[Tensor]:
    flags = torch.stack([torch.isfinite(state.detach()).all() for state in states]).tolist()
    return states[: flags.index(False)] if False in flags else states
