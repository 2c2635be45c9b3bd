"""Tier numerics, far and fast: long problems with known ends, and stiff ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import OdeError
from ode_core.testing.cases import Decay, distance, flat, vector
from ode_core.testing.problems import PROBLEMS, ReferenceProblem
from ode_core.testing.results import check, demand
from ode_core.testing.subject import (
    Subject,
    adaptive,
    chooses_steps,
    fixed_steps,
    one_tensor,
    stiff,
)
from ode_core.testing.tiers.accuracy import last

_SMOOTH = ("A3", "A5", "B1", "B5", "E1")
_LAMBDA = -1000.0


@check("numerics.end_values", adaptive)
def end_values(subject: Subject) -> str | None:
    """Well-known problems end, at t = 20, at their known values."""
    tol = 1e-3 if subject.solver.order <= 2 else 1e-6
    told = []
    for name in ("D1",) if subject.pair else _SMOOTH:
        problem = PROBLEMS[name]
        f, y0, end = _as_stated(problem, subject.pair)
        off = distance(last(subject.controlled(f, y0, [0.0, problem.t1], tol).ys), end)
        told.append(f"{name} {off / tol:.1f}")
        demand(
            off <= 1000 * tol,
            f"at rtol = atol = {tol:g} the problem {name} of DETEST ends {off:.1e} away from its "
            "known value; the estimate is too small for its error, or a coefficient is wrong",
        )
    return f"error over tolerance: {', '.join(told)}"


def _as_stated(problem: ReferenceProblem, pair: bool) -> tuple[Any, Any, Tensor]:
    if not pair:
        return problem.f, problem.y0, problem.y1
    return _Halves(problem.f), tuple(problem.y0.chunk(2)), problem.y1


class _Halves:
    """A field on (q, v) in one vector, for the pair."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def __call__(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        q, v = self.f(t, torch.cat(y)).chunk(2)
        return q, v


@check("numerics.far_left", fixed_steps)
def far_left(subject: Subject) -> str | None:
    """Steps with h lambda = -1000 stay bounded where the solver is for stiff problems, else not."""
    y0 = vector(1.0)
    start = (y0, torch.zeros_like(y0)) if subject.pair else y0
    rate = _LAMBDA**2 if subject.pair else -_LAMBDA
    ys = subject.fixed(Decay(rate), start, [0.0, 10.0], 10, on_failure="return").ys
    size = float(flat(last(ys)).abs().max())
    bounded = size <= 1.5
    if subject.stiff:
        demand(
            bounded,
            f"after ten steps with h lambda = {_LAMBDA:g} the state has grown to {size:.1e}, "
            "though a solver that solves equations is taken for stiff problems; say stiff = False, "
            "or correct the equations",
        )
    demand(
        not bounded or subject.stiff,
        f"after ten steps with h lambda = {_LAMBDA:g} the state is bounded, {size:.1e}, which no "
        "explicit method's is; say implicit = True, or stiff = True",
    )
    return None


@check("numerics.stiff", stiff, one_tensor)
def relaxed(subject: Subject) -> str | None:
    """A stiff solution is followed with steps as long as it is smooth (Prothero and Robinson)."""
    watched = _Relaxing()
    if subject.steps_fixed:
        ys = subject.fixed(watched, vector(1.0), [0.0, 1.0], 10, on_failure="return").ys
    else:
        ys = subject.controlled(watched, vector(1.0), [0.0, 1.0], 1e-6, on_failure="return").ys
    off = abs(float(ys[-1, 0]) - math.cos(1.0))
    demand(
        off <= 1e-3,
        f"y' = -1000 (y - cos t) - sin t with h = 0.1 is wrong by {off:.1e} at t = 1, where "
        "implicit methods are right to 3e-5; solve a stage's equations to their end",
    )
    demand(
        watched.calls <= 2000,
        f"y' = -1000 (y - cos t) - sin t took {watched.calls} evaluations of f; a method for stiff "
        "problems needs a few hundred, so look at its Newton iteration or its stability",
    )
    return f"wrong by {off:.0e} after {watched.calls} evaluations"


class _Relaxing:
    """Prothero and Robinson's problem with the solution cos t."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return _LAMBDA * (y - torch.cos(t)) - torch.sin(t)


@check("numerics.given_steps", chooses_steps)
def given_steps(subject: Subject) -> str | None:
    """A solver that chooses its steps itself refuses given ones, and does not ignore them."""
    y0 = vector(1.0)
    start = (y0, torch.zeros_like(y0)) if subject.pair else y0
    try:
        subject.fixed(Decay(), start, [0.0, 1.0], 4)
    except OdeError as error:
        return str(error)
    demand(
        False,
        "fixed_steps is False, yet a solve with given steps was not refused; raise "
        "ode_core.UnsupportedError where step gets no tolerance, or say fixed_steps = True",
    )
    return None


CHECKS = (end_values, far_left, relaxed, given_steps)
