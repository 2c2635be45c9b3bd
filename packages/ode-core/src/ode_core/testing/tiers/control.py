"""Tier numerics with chosen steps, and what becomes of a problem that has no solution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import SolveError
from ode_core.protocols import Step
from ode_core.solution import Solution, Status
from ode_core.testing.cases import Decay, distance, flat, turning, vector
from ode_core.testing.results import check, demand
from ode_core.testing.subject import Subject, adaptive, fixed_steps, one_tensor
from ode_core.testing.tiers.accuracy import last, worst

_PATIENCE = 20_000
_TOLERANCES = (1e-3, 1e-5, 1e-7)


@check("numerics.tolerance", adaptive)
def tolerance(subject: Subject) -> str | None:
    """The error falls with the tolerance and is never above a hundred times it."""
    case = turning(pair=subject.pair)
    errors = []
    for tol in _tolerances(subject):
        end = last(subject.controlled(case.f, case.y0, [0.0, case.t1], tol).ys)
        errors.append(distance(end, case.exact(case.t1)))
        demand(
            errors[-1] <= 100 * tol,
            f"at rtol = atol = {tol:g} the error is {errors[-1]:.1e}; return an estimate of the "
            "step's error as tolerance.norm(error, y, y1)",
        )
    told = ", ".join(f"{error:.0e}" for error in errors)
    demand(
        errors[-1] < errors[0] / 10 or errors[0] < 1e-9,
        f"errors of {told} at tolerances {_tolerances(subject)}: they do not fall as the "
        "tolerance does; let the estimate fall with the step",
    )
    return f"errors {told}"


def _tolerances(subject: Subject) -> tuple[float, ...]:
    # Order 2 to seven digits takes thousands of steps.
    return _TOLERANCES if subject.solver.order > 2 else (1e-2, 1e-4, 1e-5)


@check("numerics.dense_output", adaptive)
def dense_output(subject: Subject) -> str | None:
    """Between steps the error is at most ten tolerances, or twice the worst at the steps."""
    case, tol = turning(pair=subject.pair), 1e-5
    solution = subject.controlled(
        case.f, case.y0, [0.0, case.t1], tol, dense=True, record_steps=True
    )
    assert solution.steps is not None
    nodes = [0.0, *(solution.steps.t + solution.steps.dt)[solution.steps.accepted].tolist()]
    nodes[-1] = case.t1
    between = [case.t1 * i / 200 for i in range(201)]
    at_steps = worst(solution.interpolate(nodes), [case.exact(t) for t in nodes])
    inside = worst(solution.interpolate(between), [case.exact(t) for t in between])
    size = float(flat(case.exact(0.0)).abs().max()) + 1.0
    allowed = max(10 * tol * size, 2 * at_steps)
    demand(
        inside <= allowed,
        f"between steps the error is {inside:.1e}, with {at_steps:.1e} at the steps and a "
        f"tolerance of {tol:g}; give `interpolant` a polynomial as accurate as the steps",
    )
    return f"{inside:.0e} between steps, {at_steps:.0e} at them"


@check("numerics.outputs", adaptive)
def outputs(subject: Subject) -> str | None:
    """How many outputs are asked for does not change the steps, nor the end."""
    case = turning(pair=subject.pair)
    few = subject.controlled(case.f, case.y0, [0.0, case.t1], 1e-5)
    times = [case.t1 * i / 100 for i in range(101)]
    many = subject.controlled(case.f, case.y0, times, 1e-5)
    off = distance(last(few.ys), last(many.ys))
    demand(
        off == 0.0 and few.stats.accepted == many.stats.accepted,
        f"101 outputs take {many.stats.accepted} steps where 2 take {few.stats.accepted}, and the "
        f"end differs by {off:.1e}; let `interpolant` leave the step and the solver as they are",
    )
    return None


@check("numerics.retries", adaptive)
def retries(subject: Subject) -> str | None:
    """A first step that is far too long is rejected and tried again, and the result is right."""
    case = turning(pair=subject.pair)
    tol = subject.tol
    solution = subject.controlled(case.f, case.y0, [0.0, case.t1], tol, dt=case.t1)
    off = distance(last(solution.ys), case.exact(case.t1))
    demand(
        off <= 200 * tol,
        f"after a first step of 2 the end is wrong by {off:.1e} at rtol = atol = {tol:g}; let a "
        "rejected step leave its carry alone, or give the next attempt one in `retry`",
    )
    off = _after_rejection(subject)
    demand(
        off <= subject.slack,
        f"a step after a rejected attempt differs by {off:.1e} from the step without one; let the "
        "carry in `retry` give the same step",
    )
    return f"{solution.stats.rejected} rejected"


def _after_rejection(subject: Subject) -> float:
    case = turning(pair=subject.pair)
    taken = list(subject.walk(case.f, case.y0, [0.0, 0.05, 0.1]))[-1]
    state, carry = taken.step.y, taken.step.carry
    rejected = subject.attempt(taken, 1.5)
    retry = carry if rejected.retry is None else rejected.retry
    both = [
        subject.solver.step(taken.field, taken.t1, 0.2, state, kept, subject.tolerance()).y
        for kept in (carry, retry)
    ]
    return distance(*both)


@check("numerics.estimate", adaptive, fixed_steps)
def estimate(subject: Subject) -> str | None:
    """The error estimate falls with the step and does not miss the error by a factor of 1000."""
    case = turning(pair=subject.pair)
    # A method with a memory has one by now.
    before = list(subject.walk(case.f, case.y0, [0.0, 0.01, 0.02]))[-1]
    ratios = []
    for size in (0.4, 0.2, 0.1):
        step = subject.attempt(before, 0.02 + size)
        ratios.append((_number(step), distance(step.y, flat(case.exact(0.02 + size)))))
    sizes = [ratio for ratio, _ in ratios]
    demand(
        all(math.isfinite(s) and s > 0.0 for s in sizes) and sizes[0] > 2.0 * sizes[2],
        f"for steps of 0.4, 0.2 and 0.1 the scaled error is {[float(f'{s:.2g}') for s in sizes]}; "
        "it has to be positive and to fall with the step, or no step is ever chosen by it",
    )
    for ratio, true in ratios:
        told = ratio * subject.tol
        demand(
            told >= 1e-3 * (true - 1e-6),
            f"the estimate says {told:.1e} where the step is wrong by {true:.1e}; it is too small "
            "for its tolerance to mean anything",
        )
    return None


def _number(step: Step) -> float:
    return math.nan if step.error is None else float(step.error)


class _Patient:
    """Counts calls, and fails a solve that does not come to an end."""

    def __init__(self) -> None:
        self.calls = 0

    def called(self) -> None:
        self.calls += 1
        demand(
            self.calls <= _PATIENCE,
            f"after {_PATIENCE} evaluations of f the solve of a problem that has no solution has "
            "not ended; return an infinite error where a step cannot succeed, so that it ends",
        )


class _Cliff(_Patient):
    """y' = y up to a height of 2, and a value that is no number beyond it."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def __call__(self, t: Tensor, y: Any) -> Any:
        self.called()
        first = y[0] if isinstance(y, tuple) else y
        slope = torch.where(first.abs() > 2.0, self.value, first)
        return (y[1], slope) if isinstance(y, tuple) else slope


@check("numerics.not_finite")
def not_finite(subject: Subject) -> str | None:
    """Where f is NaN or infinite the solve says that it failed, and its numbers end there."""
    for value in (math.nan, math.inf):
        y0 = vector(1.0, 0.5)
        start = (y0, y0.clone()) if subject.pair else y0
        try:
            solution = subject.solve(_Cliff(value), start, [0.0, 0.4, 3.0], on_failure="return")
        except SolveError:
            # A step without an error estimate has no other way to say why it failed.
            continue
        demand(
            solution.status is not Status.SUCCESS,
            f"f is {value} for y > 2, which y' = y reaches at t = 0.7, yet the solve to t = 3 "
            f"ended as a success with {_head(solution)}; let the step's state or error show it",
        )
        demand(
            bool(torch.isnan(flat(last(solution.ys))).any()),
            f"f is {value} from t = 0.7 on, yet the state at t = 3 is {_head(solution)}; leave "
            "values that are not finite in the state",
        )
    return None


def _head(solution: Solution) -> str:
    return str([round(x, 4) for x in flat(last(solution.ys)).tolist()[:2]])


@check("numerics.singularity", adaptive, one_tensor)
def singularity(subject: Subject) -> str | None:
    """A solution that grows beyond bounds is a failure near that time, not a number."""
    solution = subject.controlled(
        _Square(), vector(1.0), [0.0, 0.5, 2.0], 1e-5, on_failure="return", max_steps=5000
    )
    demand(
        solution.status is not Status.SUCCESS,
        f"y' = y^2 from 1 is infinite at t = 1, yet the solve to t = 2 returned {_head(solution)}; "
        "return an error that is infinite, or above 1, where a step cannot be right",
    )
    off = abs(float(solution.ys[1, 0]) - 2.0)
    demand(
        off <= 1e-2,
        f"before the singularity, at t = 0.5, the state is wrong by {off:.1e}; keep what was right",
    )
    return None


class _Square(_Patient):
    """y' = y^2."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.called()
        return y * y


@check("numerics.zero_length")
def zero_length(subject: Subject) -> str | None:
    """Times that are equal return the same state, at the start, in the middle and at the end."""
    y0 = vector(1.0, 2.0)
    start = (y0, torch.zeros(2, dtype=y0.dtype)) if subject.pair else y0
    alone = subject.solve(Decay(), start, [0.5, 0.5]).ys
    off = distance(last(alone), start)
    demand(
        off == 0.0, f"from t = 0.5 to 0.5 the state moved by {off:.1e}; a step of no length is none"
    )
    ys = subject.solve(Decay(), start, [0.0, 0.0, 0.6, 0.6, 1.0, 1.0]).ys
    parts = ys if subject.pair else (ys,)
    off = max(float((part[i] - part[i + 1]).abs().max()) for part in parts for i in (0, 2, 4))
    demand(off == 0.0, f"states at equal times differ by {off:.1e}; read one time in one way")
    return None


CHECKS = (
    tolerance,
    dense_output,
    outputs,
    retries,
    estimate,
    not_finite,
    singularity,
    zero_length,
)
