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
from ode_core.numbers import Numbers, choose, maybe, numbers, tensor
from ode_core.rows import take, where
from ode_core.tolerance import SampleTolerance

if TYPE_CHECKING:
    from ode_core.field import Field
    from ode_core.protocols import Plan
    from ode_core.samples import SampleProblem, Stops

Attempt = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of attempted steps, `[n]` each: start, signed size, error ratio, accepted or not, sample."""


class SampleLog:
    """What the loop reports for each of B samples: counts, how it ended, and every attempt.

    `t` and `dt` are the times and step sizes with which samples ended, NaN for one that had ended
    before its first step.
    """

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
    """The part of the batch that is still being solved, one row a sample.

    Numbers are `[b]`; `own` are those of `rows`, the samples. A row that is not `live` stands
    still: its next stop, `end`, is where it is. One that is `settled` came to its end in good
    order. `resume` is where a row goes on from its stop, None where that is the stop itself for
    all; `stop` counts a row's stops. All live rows have a part in the calls that `field` has
    counted since `base`; `extra` are those beside that a row had a part in. `calls`, `tried`,
    `status` and `size`, of the next step, are what a row had come to when it ended. `active` rows
    are live, `attempts` steps were tried so far, and `least` is a step size that no clock is too
    coarse for.
    """

    rows: Tensor
    own: Numbers
    t: Numbers
    t0: Numbers
    dt: Numbers
    sign: Numbers
    end: Numbers
    resume: Numbers
    live: Numbers
    settled: Numbers
    accepted: Numbers
    extra: Numbers
    calls: Numbers
    tried: Numbers
    status: Numbers
    size: Numbers
    field: Field
    base: int
    y: Tensor
    carry: Any
    memory: Any
    stops: Stops
    stop: Tensor
    tolerance: SampleTolerance | None
    active: int
    attempts: int
    least: float

    def kept(self, rows: Tensor) -> Part:
        """Return the given rows, `[n]` indices into this part."""
        some = {name: take(getattr(self, name), rows) for name in _OF_ROWS}
        tolerance = None if self.tolerance is None else self.tolerance.rows(rows)
        return replace(self, **some, stops=self.stops.rows(rows), tolerance=tolerance)

    def finish(self, done: Numbers, status: int = 0) -> None:
        """Let rows stand still where they are, with a status."""
        self.calls = choose(done, self.extra + (self.field.calls - self.base), self.calls)
        self.tried = choose(done, self.attempts, self.tried)
        self.status = choose(done, status, self.status)
        self.size = choose(done, self.dt, self.size)
        self.end = choose(done, self.t, self.end)
        if self.tolerance is not None:
            # A step of no size ends where it begins, and nobody has to cut it.
            self.dt = choose(done, 0.0, self.dt)
        self.live = self.live & ~done
        if status == 0:
            self.settled = self.settled | done
        self.active = int(self.live.sum())

    def note(self, log: SampleLog) -> None:
        """Write what rows have come to into the log."""
        own, tried = self.own, self.tried
        # A sample that had ended before its first step has no last one.
        begun = tried > 0
        numbers(log.f_calls)[own] += self.calls
        for into, value in (
            (log.accepted, self.accepted),
            (log.rejected, tried - self.accepted),
            (log.status, self.status),
            (log.t, choose(begun, self.t, math.nan)),
            (log.dt, choose(begun, self.size, math.nan)),
        ):
            numbers(into)[own] = value


_OF_ROWS = (
    "rows",
    "own",
    "t",
    "t0",
    "dt",
    "sign",
    "end",
    "resume",
    "live",
    "settled",
    "accepted",
    "extra",
    "calls",
    "tried",
    "status",
    "size",
    "y",
    "carry",
    "memory",
    "stop",
)


def begin(
    f: Callable[[Any, Tensor], Tensor], problem: SampleProblem, stops: Stops, plan: Plan
) -> Part:
    """Return all samples at their start, with the sizes of their first steps."""
    y, t, base = problem.y0, stops.begin, problem.field.calls
    rows = torch.arange(len(y), device=t.device)
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
    zeros, first, last = torch.zeros_like(rows), numbers(problem.start), numbers(problem.end)
    none, live, own = numbers(zeros), first != last, numbers(t)
    far = max(float(abs(first).max()), float(abs(last).max()))
    return Part(
        rows=rows,
        own=numbers(rows),
        t=own,
        t0=first,
        dt=numbers(dt),
        sign=numbers(problem.direction),
        end=choose(live, numbers(stops.end[:, 0]), own),
        resume=numbers(stops.resume[:, 0]) if stops.jumped else None,
        live=live,
        settled=~live,
        accepted=none * 1,
        extra=none,
        calls=none,
        tried=none,
        status=none,
        size=none * math.nan,
        field=problem.field,
        base=base,
        y=y,
        carry=carry,
        memory=memory,
        stops=stops,
        stop=zeros,
        tolerance=tolerance,
        active=int(live.sum()),
        attempts=0,
        least=10.0 * (math.nextafter(far, math.inf) - far),
    )


def _sizes(dt: Any, t: Tensor) -> Tensor:
    sizes = torch.as_tensor(dt, dtype=torch.float64, device=t.device).expand_as(t)
    # A sample whose step size is not known has finished before its first step.
    return torch.where(sizes.isnan(), 1.0, sizes)


def _first(
    f: Callable[[Any, Tensor], Tensor],
    y: Tensor,
    span: tuple[Tensor, Tensor],
    carry: Any,
    plan: Plan,
) -> Tensor:
    slope = getattr(plan.solver, "slope", None)
    held = slope(carry) if slope is not None else None
    if held is None:
        with torch.no_grad():
            held = f(span[0], y)
    assert plan.tolerance is not None  # the front door gives every adaptive plan one
    return first_steps(f, span, y, held, plan.solver.order, plan.tolerance)


def begin_anew(f: Callable[[Any, Tensor], Tensor], part: Part, fresh: Numbers, plan: Plan) -> None:
    """Start the solver anew where a row has passed a jump or got another state."""
    if not maybe(fresh):
        return
    calls = part.field.calls
    anew = plan.solver.init(f, tensor(part.t), part.y)
    part.carry = where(tensor(fresh), anew, part.carry)
    # The others had no part in these.
    calls = part.field.calls - calls
    part.extra, part.base = part.extra + choose(fresh, calls, 0), part.base + calls
