"""Tier numerics with given steps: order, dense output, symmetry, linearity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ode_core.testing.cases import Case, Steady, bending, distance, flat, turning, vector
from ode_core.testing.results import check, demand
from ode_core.testing.subject import Subject, fixed_steps, one_tensor

_WITHIN = 0.2


@check("numerics.order", fixed_steps)
def order(subject: Subject) -> str | None:
    """With given steps the error falls with the claimed order, with time in f and without."""
    claimed = subject.solver.order
    found = {}
    for case in (turning(pair=subject.pair), bending(pair=subject.pair)):
        found[case.name] = _slopes(subject, partial(_error_at_end, subject, case))
    slowest = min(found, key=lambda name: found[name])
    demand(
        abs(found[slowest] - claimed) <= _WITHIN,
        f"errors fall with order {found[slowest]:.2f} on {slowest} where order {claimed} is "
        "claimed; check the coefficients and the times of the stages, or correct the claim",
    )
    return f"order {found[slowest]:.2f}, claimed {claimed}"


def _error_at_end(subject: Subject, case: Case, steps: int) -> float:
    solution = subject.fixed(case.f, case.y0, [0.0, case.t1], steps)
    return distance(last(solution.ys), case.exact(case.t1))


def last(ys: Any) -> Any:
    """Return the last of the states of a solution."""
    return tuple(part[-1] for part in ys) if isinstance(ys, tuple) else ys[-1]


def _slopes(subject: Subject, error: Callable[[int], float]) -> float:
    """Return the order of the smallest steps whose errors are well above round-off."""
    # Equations are solved to a residual, and take a hundred times an explicit step.
    implicit = subject.solver.implicit
    ratio, floor = (2.0, 1e-9) if implicit else (math.sqrt(2.0), 1e-12)
    low = subject.solver.order <= 2
    most = (60 if low else 100) if implicit else (400 if low else 200)
    errors: list[tuple[int, float]] = []
    steps = 6.0
    while steps <= most:
        size = error(round(steps))
        if size < floor:
            break
        errors.append((round(steps), size))
        steps *= ratio
    apart = 1 if implicit else 2
    return _slope(errors[-1 - apart], errors[-1]) if len(errors) > apart else math.nan


def _slope(coarse: tuple[int, float], fine: tuple[int, float]) -> float:
    if not (coarse[1] > 0.0 and fine[1] > 0.0):
        return math.nan
    return math.log(coarse[1] / fine[1]) / math.log(fine[0] / coarse[0])


@check("numerics.dense_order", fixed_steps)
def dense_order(subject: Subject) -> str | None:
    """Outputs between given steps converge with order min(p, 3) at least."""
    case = turning(pair=subject.pair)
    times = [case.t1 * i / 50 for i in range(51)]
    exact = [case.exact(t) for t in times]

    def error(steps: int) -> float:
        ys = subject.fixed(case.f, case.y0, times, steps).ys
        return worst(ys, exact)

    found, wanted = _slopes(subject, error), min(subject.solver.order, 3)
    demand(
        found >= wanted - 0.3,
        f"outputs between steps converge with order {found:.2f} where {wanted} is due; give "
        "`interpolant` a polynomial of that order, or leave it out for core's cubic",
    )
    return f"order {found:.2f}"


def worst(ys: Any, exact: Sequence[Any]) -> float:
    """Return the largest error over all outputs."""
    errors = []
    for index, state in enumerate(exact):
        got = tuple(part[index] for part in ys) if isinstance(ys, tuple) else ys[index]
        errors.append(distance(got, state))
    return max(errors) if all(math.isfinite(e) for e in errors) else math.inf


@check("numerics.backwards")
def backwards(subject: Subject) -> str | None:
    """A solve back in time returns to where it started, to the accuracy of the way there."""
    case = turning(pair=subject.pair)
    there = last(subject.solve(case.f, case.y0, [0.0, case.t1]).ys)
    missed = distance(there, case.exact(case.t1))
    back = last(subject.solve(case.f, there, [case.t1, 0.0]).ys)
    off = distance(back, case.y0)
    allowed = 20 * missed + 100 * subject.tol * subject.solver.adaptive + 1e-9
    demand(
        off <= allowed,
        f"back at the start the state is off by {off:.1e}, after an error of {missed:.1e} on the "
        f"way there; let the sign of t1 - t0 run through every stage",
    )
    return f"off by {off:.0e} at the start"


@check("numerics.mirrored")
def mirrored(subject: Subject) -> str | None:
    """The mirrored problem solved backwards takes the mirrored steps."""
    case = turning(pair=subject.pair)
    mirror = case.mirrored()
    there = subject.gridded(case.f, case.y0, [0.0, case.t1]).ys
    back = subject.gridded(mirror.f, mirror.y0, [0.0, -case.t1]).ys
    sign = torch.tensor([1.0, -1.0]) if subject.pair else torch.tensor([1.0])
    ends = [flat(last(there)), flat(last(back)) * sign.repeat_interleave(_half(subject, case))]
    difference = float((ends[0] - ends[1]).abs().max())
    demand(
        difference <= max(1e-12, subject.slack),
        f"the mirrored problem differs by {difference:.1e} when time runs backwards; take the size "
        "of a step from t1 - t0 with its sign",
    )
    return None


def _half(subject: Subject, case: Case) -> int:
    return flat(case.y0).numel() // (2 if subject.pair else 1)


@check("numerics.constants")
def constants(subject: Subject) -> str | None:
    """f = 0 leaves the state as it is to the bit, f = 1 adds the time that has gone by."""
    case = turning(pair=subject.pair)
    still = subject.gridded(Steady(0.0), _still(case, subject.pair), [0.0, 0.3, 1.0]).ys
    start = flat(_still(case, subject.pair))
    off = distance(last(still), _still(case, subject.pair))
    demand(
        off == 0.0,
        f"with f = 0 the state moved by {off:.1e}; add increments to the state, nothing else",
    )
    moved = flat(last(subject.gridded(Steady(1.0), _still(case, subject.pair), [0.0, 1.0]).ys))
    wanted = start + _moved(start, subject.pair)
    off = float((moved - wanted).abs().max())
    demand(
        off <= max(1e-12, subject.slack),
        f"with a constant f = 1 the state is off by {off:.1e} after a time of 1; the weights of "
        "the increments do not add up to 1",
    )
    return None


def _still(case: Case, pair: bool) -> Any:
    return (case.y0[0], torch.zeros_like(case.y0[1])) if pair else case.y0


def _moved(start: Tensor, pair: bool) -> Tensor:
    # q'' = 1 from rest: half the square of the time, and the time.
    half = torch.ones_like(start)
    if pair:
        half[: start.numel() // 2] = 0.5
    return half


@check("numerics.linear", fixed_steps, one_tensor)
def linear(subject: Subject) -> str | None:
    """On a linear problem the solution scales with the state."""
    case = turning(pair=False)
    one = subject.fixed(case.f, case.y0, [0.0, case.t1], 16).ys
    four = subject.fixed(case.f, 4.0 * case.y0, [0.0, case.t1], 16).ys
    off = distance(4.0 * one, four) / 4.0
    demand(
        off <= subject.slack,
        f"four times the state gives four times a linear problem's solution only to {off:.1e}; "
        "nothing in a given step may depend on the state's size",
    )
    return None


@check("numerics.restart")
def restart(subject: Subject) -> str | None:
    """After a jump of f, `init` begins anew: nothing of the slopes before it is used."""
    y0 = _still(turning(pair=subject.pair), subject.pair)
    solution = subject.gridded(_Kink(), y0, [0.0, 1.3], jump_times=[0.55])
    start, end = flat(y0), flat(last(solution.ys))
    size = start.numel() // (2 if subject.pair else 1)
    gained = 0.55 - 2.0 * (1.3 - 0.55)
    if subject.pair:
        way = 0.55**2 / 2 + 0.55 * 0.75 - 0.75**2
        wanted = start + vector(way, gained).repeat_interleave(size)
    else:
        wanted = start + gained
    off = float((end - wanted).abs().max())
    # A jump's two sides are neighbouring numbers, and f is not defined between them.
    demand(
        off <= max(1e-6 * subject.solver.adaptive, 1e-9),
        f"past a jump of f, known by jump_times, the state is off by {off:.1e} although f is "
        "constant on both sides; let init drop what was kept of f before the jump",
    )
    return None


class _Kink:
    """f = 1 up to t = 0.55, then -2."""

    def __call__(self, t: Tensor, y: Any) -> Any:
        return Steady(1.0 if float(t) <= 0.55 else -2.0)(t, y)


CHECKS = (order, dense_order, backwards, mirrored, constants, linear, restart)
