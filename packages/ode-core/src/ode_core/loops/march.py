"""The step loop: a generator of accepted steps, and the only place that decides on step sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ode_core.control import FixedSteps, first_step, reach
from ode_core.solution import Stats, Status
from ode_core.tolerance import all_finite
from ode_core.transforms import hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from ode_core.protocols import Carry, Controller, Plan, Step
    from ode_core.solution import State


class Stop(NamedTuple):
    """A time at which a step must end, and the one at which the next begins: apart at a jump."""

    end: float
    resume: float


class Again(NamedTuple):
    """Sent back in place of a state: the step is to be made anew, this much shorter."""

    factor: float


class Accepted(NamedTuple):
    """One accepted step.

    `until` is the time up to which it answers for the solution; `fresh` says that its carry was
    made by the solver's `init` from its state, and not by the step before.
    """

    t0: float
    t1: float
    until: float
    y0: Tensor
    carry: Carry
    step: Step
    fresh: bool

    @property
    def span(self) -> tuple[float, float]:
        """The times at both ends of the step."""
        return self.t0, self.t1


@dataclass
class Log:
    """What the loop reports: counts, how it ended, and every attempt where that is asked for.

    `dt` is the size that the next step would have, `carry` and `memory` the solver's and the
    controller's at the last accepted step, `diagnosis` what the solver has noticed.
    """

    stats: Stats = field(default_factory=Stats)
    status: Status = Status.SUCCESS
    stopped_at: float = math.nan
    attempts: list[tuple[float, float, float, bool]] = field(default_factory=list)
    dt: float | None = None
    carry: Carry = None
    memory: Any = None
    diagnosis: Any = None

    def fail(self, status: Status, t: float) -> None:
        """Note why and where the solve stopped."""
        self.status, self.stopped_at = status, t


def march(
    f: Callable[[float, Tensor], Tensor],
    y: Tensor,
    t0: float,
    stops: Sequence[Stop],
    plan: Plan,
    log: Log,
    given: float | None = None,
) -> Generator[Accepted, Tensor | Again | None, None]:
    """Yield accepted steps from t0 through every stop, in order.

    `given` is the first node of given steps where that is not t0 itself, which then is the far side
    of a jump there.

    `f` is a field on packed states. A state that is sent back replaces the one just reached (an
    impulse, a reset): the solver then starts anew from it, with the step size that it had. `Again`
    asks for a shorter step in place of the last, where steps are chosen. The loop ends early only
    by noting a failure on the log.
    """
    if isinstance(plan.controller, FixedSteps):
        nodes = plan.controller.nodes(t0 if given is None else given, stops[-1].resume, plan.dt)
        return _given(f, y, t0, with_stops(nodes, stops), plan, log)
    return _chosen(f, y, t0, stops, plan.controller, plan, log)


def _given(
    f: Callable[[float, Tensor], Tensor],
    y: Tensor,
    t0: float,
    ends: Sequence[Stop],
    plan: Plan,
    log: Log,
) -> Generator[Accepted, Tensor | Again | None, None]:
    solver = plan.solver
    carry = _start(f, y, t0, plan) if ends else None
    t, fresh = t0, True
    for t1, resume in ends:
        if log.stats.accepted >= plan.max_steps:
            return log.fail(Status.MAX_STEPS, t)
        step = solver.step(f, t, t1, y, carry, None)
        log.stats.accepted += 1
        if plan.record_steps:
            log.attempts.append((t, t1 - t, math.nan, True))
        log.carry = step.carry
        sent = yield Accepted(t, t1, resume, y, carry, step, fresh)
        assert not isinstance(sent, Again)  # given steps are not made anew
        y = step.y if sent is None else sent
        t, fresh = resume, sent is not None or resume != t1
        carry = solver.init(f, t, y) if fresh and t1 != ends[-1].end else step.carry
    if not hidden(y) and not all_finite(y):
        log.fail(Status.NOT_FINITE, t)
    return None


def with_stops(nodes: Sequence[float], stops: Sequence[Stop]) -> list[Stop]:
    """Return where given steps end: at their nodes, and at stops between them."""
    if not nodes or (len(stops) == 1 and stops[0].end == stops[0].resume):
        return [Stop(node, node) for node in nodes]
    sign = 1.0 if stops[-1].end >= stops[0].end else -1.0
    merged = {node: Stop(node, node) for node in nodes} | {stop.end: stop for stop in stops}
    # A node between the two sides of a jump is no place to step to.
    gaps = [stop for stop in stops if stop.resume != stop.end]
    kept = [
        stop
        for stop in merged.values()
        if not any(sign * gap.end < sign * stop.end <= sign * gap.resume for gap in gaps)
    ]
    return sorted(kept, key=lambda stop: sign * stop.end)


def _chosen(
    f: Callable[[float, Tensor], Tensor],
    y: Tensor,
    t0: float,
    stops: Sequence[Stop],
    controller: Controller,
    plan: Plan,
    log: Log,
) -> Generator[Accepted, Tensor | Again | None, None]:
    solver, tolerance, stats = plan.solver, plan.tolerance, log.stats
    order, last = getattr(solver, "error_order", solver.order), stops[-1].end
    if t0 == last:
        return None
    direction = math.copysign(1.0, last - t0)
    carry, dt, memory = _begin(f, y, (t0, stops[0].end), plan, controller)
    diagnose = getattr(solver, "diagnose", None)
    least, most = getattr(controller, "dt_min", 0.0), getattr(controller, "dt_max", math.inf)
    record = log.attempts.append if plan.record_steps else _nothing
    t, fresh = t0, True
    for stop in stops:
        while t != stop.end:
            t1 = t + direction * (dt := min(max(dt, least), most))
            cut = (t1 - stop.end) * direction > -reach(dt, most)
            t1 = stop.end if cut else t1
            if stats.accepted + stats.rejected >= plan.max_steps:
                return log.fail(Status.MAX_STEPS, t)
            step = solver.step(f, t, t1, y, carry, tolerance)
            error = _ratio(step, least=dt <= least)
            accept, factor, memory = controller.judge(error, order, memory)
            # A stretch is no size that a controller has asked for.
            taken = min(dt, abs(t1 - t))
            record((t, t1 - t, error, accept))
            if not accept:
                stats.rejected += 1
                dt = taken * factor
                carry = carry if step.retry is None else step.retry
                blown = math.isinf(error)
                if dt < _smallest(t, direction) or (blown and taken <= least):
                    return log.fail(Status.NOT_FINITE if blown else Status.STEP_TOO_SMALL, t)
                continue
            stats.accepted += 1
            # A step cut short at a stop says little about the size that the next one can have.
            dt = max(dt, taken * factor) if cut and factor >= 1.0 else taken * factor
            until = stop.resume if t1 == stop.end else t1
            log.dt, log.carry, log.memory = dt, step.carry, memory
            if diagnose is not None:
                log.diagnosis = diagnose(log.diagnosis, step)
            sent = yield Accepted(t, t1, until, y, carry, step, fresh)
            if isinstance(sent, Again):
                stats.accepted, stats.rejected = stats.accepted - 1, stats.rejected + 1
                dt = taken * sent.factor
                continue
            t, y, carry = t1, step.y if sent is None else sent, step.carry
            fresh = sent is not None or until != t1
            if fresh and t != last:
                carry = solver.init(f, until, y)
            if t != last and dt < _smallest(t, direction):
                return log.fail(Status.STEP_TOO_SMALL, t)
        t = stop.resume
    return None


def _nothing(attempt: tuple[float, float, float, bool]) -> None:
    """Keep no record of an attempt."""


def _start(f: Callable[[float, Tensor], Tensor], y: Tensor, t0: float, plan: Plan) -> Carry:
    # A carry that can be made anew is: f may have changed since the solve that left it.
    start = plan.start
    if start is None or start.carry is None or plan.solver.one_step:
        return plan.solver.init(f, t0, y)
    return start.carry


def _begin(
    f: Callable[[float, Tensor], Tensor],
    y: Tensor,
    span: tuple[float, float],
    plan: Plan,
    controller: Controller,
) -> tuple[Carry, float, Any]:
    """Return the carry, the first step's size and the controller's memory.

    What the solve before has left counts before what would be sought anew.
    """
    carry = _start(f, y, span[0], plan)
    start: State | None = plan.start
    memory = controller.init() if start is None or start.memory is None else start.memory
    dt = plan.dt if start is None or start.dt is None else start.dt
    if dt is None:
        return carry, _first(f, y, span, carry, plan), memory
    # A size that the clock cannot tell from nothing says nothing about the problem.
    return carry, max(dt, _smallest(span[0], span[1] - span[0])), memory


def _ratio(step: Step, *, least: bool) -> float:
    error = 0.0 if step.error is None else float(step.error)
    # The least step is taken whatever its error is, unless that is none at all.
    return min(error, 1.0) if least and error < math.inf else error


def _smallest(t: float, direction: float) -> float:
    # Below some units in the last place a stage cannot tell its time from another's.
    return 10.0 * abs(math.nextafter(t, direction * math.inf) - t)


def _first(
    f: Callable[[float, Tensor], Tensor],
    y: Tensor,
    span: tuple[float, float],
    carry: Carry,
    plan: Plan,
) -> float:
    if getattr(plan.solver, "chooses_steps", False):
        return abs(span[1] - span[0])
    # A solver whose carry holds f(t0, y0) lends it, and saves an evaluation.
    slope = getattr(plan.solver, "slope", None)
    held = slope(carry) if slope is not None else None
    if held is None:
        with torch.no_grad():
            held = f(span[0], y)
    tolerance = plan.tolerance
    assert tolerance is not None  # the front door gives every adaptive plan one
    return first_step(f, span, y, held, plan.solver.order, tolerance)


def stops_between(t0: float, t1: float, jumps: Sequence[tuple[float, float]]) -> list[Stop]:
    """Return the stops of a solve from t0 to t1 with the two sides of every jump."""
    inside = [Stop(before, after) for before, after in jumps if before != t0]
    stops = [*inside, Stop(t1, t1)]
    # A jump nearer to an end than f can tell is no stop of its own.
    return [a for a, b in pairwise(stops) if (b.end - a.resume) * (t1 - t0) > 0] + stops[-1:]
