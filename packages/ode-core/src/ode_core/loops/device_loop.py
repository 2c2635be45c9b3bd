"""What a loop on the device is made of: its chunks, its clock, and the steps that it shows."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.loops.captured import captured, of
from ode_core.loops.chunk import Buffers, Chunk
from ode_core.loops.graphs import Graph, capturable, noting
from ode_core.loops.march import Accepted
from ode_core.loops.pace import (
    CODE,
    CUT,
    DT,
    REACHED,
    STOP,
    T1,
    DeviceTolerance,
    Pace,
    T,
    TorchPace,
)
from ode_core.protocols import Step
from ode_core.rows import along

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.field import Field
    from ode_core.loops.march import Log, Stop
    from ode_core.problem import Problem
    from ode_core.protocols import Plan


class Loop:
    """One solve on the device.

    `every` says that all accepted steps are to be shown, `keep` that some within which a requested
    time lies may be, `whole` that they are shown with their slopes.
    """

    def __init__(self, problem: Problem, plan: Plan, log: Log, stops: Sequence[Stop]) -> None:
        assert plan.graph is not None  # what brought us here
        self.problem, self.plan, self.log, self.stops = problem, plan, log, stops
        self.options: Graph = plan.graph
        self.field = problem.field
        self.sign = problem.direction
        self.signed = [self.sign * t for t in problem.times]
        ends = {stop.end for stop in stops}
        self.every = plan.dense or problem.given.asks
        self.keep = self.every or any(t not in ends for t in problem.times[1:])
        self.whole = True
        self.noted: tuple[Any, ...] = ()

    def started(self, t: float, y: Tensor) -> Any:
        """Return the carry at the start, and note what f uses where a graph is to rely on it."""
        start, solver, field = self.plan.start, self.plan.solver, self.field
        if start is not None and start.carry is not None and not solver.one_step:
            return start.carry
        if not capturable(y):
            return solver.init(field, t, y)
        with noting(field) as noted:
            carry = solver.init(field, t, y)
            if not noted.key:
                field(t, y)
        self.noted = noted.key
        return carry

    def chunks(
        self,
        plain: TorchPace | None,
        tolerance: DeviceTolerance | None,
        y: Tensor,
        carry: Any,
        clock: Tensor,
    ) -> list[Chunk]:
        """Return the chunks that the loop takes in turn, as graphs where that can be done."""
        solver, options = self.plan.solver, self.options
        own = getattr(solver, "pace", None)
        pace: Pace | None = plain if plain is None or own is None else own(plain, y)
        steps = options.steps if pace is not None else len(clock) - 1
        buffers = Buffers.like(y, carry, clock)
        first = Chunk(solver, tolerance, pace, buffers, steps, self.keep, self.whole)
        chunks = [first, replace(first)] if options.lag and pace is not None else [first]
        if not capturable(y):
            return chunks
        still = clock.clone()
        if plain is not None:
            still[T1], still[CODE] = still[T], float(REACHED)
        about = (self.noted, plain and (of(plain.controller), plain.order, plain.direction))
        contents = ((y, carry, still), (y, carry, clock))
        return captured(chunks, self.field, contents, about)

    def first(self, t: float, y: Tensor, carry: Any, tolerance: DeviceTolerance) -> Tensor:
        """Return the size of the first step, 0-d, as the host would choose it."""
        slope = getattr(self.plan.solver, "slope", None)
        held = slope(carry) if slope is not None else None
        held = self.field(t, y) if held is None else held
        begin, end = sent([t, self.stops[0].end], y.device).unbind()
        return _first_step(self.field, (begin, end), y, held, self.plan.solver.order, tolerance)

    def clock(self, plain: TorchPace, at: tuple[float, Any, int, float], memory: Any) -> Tensor:
        """Return a clock for time, step size, attempts left and stop; nothing is read."""
        t, dt, left, stop = at
        if not isinstance(dt, Tensor):
            return sent(plain.begun(t, dt, left, stop, memory), self.problem.y0.device)
        clock = sent(plain.begun(t, 1.0, left, stop, memory), self.problem.y0.device)
        ahead, size, cut = plain.proposed(clock[T], dt, clock[STOP])
        for place, value in ((T1, ahead), (DT, size), (CUT, cut)):
            clock[place].copy_(value)
        return clock

    def step(
        self, chunk: Chunk, k: int, span: tuple[float, float, float], error: float | None
    ) -> Accepted:
        """Return an accepted attempt over t0, t1 and until, valid until the next launch."""
        if self.keep:
            y0, carry, step = chunk.slots[k]
        else:
            y0, carry, step = chunk.buffers.y, None, Step(chunk.buffers.y, error, None, None)
        return Accepted(*span, y0, carry, step, False)

    def asked(self, made: Accepted) -> bool:
        """Return whether a step answers for a requested time, or all are to be kept."""
        begin, end = (bisect_right(self.signed, self.sign * t) for t in (made.t0, made.until))
        return self.every or begin != end

    def owned(self, made: Accepted) -> Accepted:
        """Return a step whose new state, and all of it where it is kept, is in fresh memory."""
        if self.every:
            y0, step = pytree.tree_map(_cloned, (made.y0, made.step._replace(carry=None)))
            return made._replace(y0=y0, step=step)
        return made._replace(step=made.step._replace(y=made.step.y.clone()))


def sent(numbers: list[float], device: torch.device) -> Tensor:
    """Return float64 numbers on a device; nothing waits for it."""
    host = torch.tensor(numbers, dtype=torch.float64, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def _cloned(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def _first_step(
    f: Field, span: tuple[Tensor, Tensor], y: Tensor, slope: Tensor, order: int, tolerance: Any
) -> Tensor:
    """Return the 0-d size of the first step over a span of 0-d times, as `first_step` chooses it.

    Source: Hairer, Nørsett, Wanner I, section II.4, starting step size.
    """
    t0, t1 = span
    length = (t1 - t0).abs()
    d0, d1 = tolerance.norm(y, y, y), tolerance.norm(slope, y, y)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    usable = h0.isfinite() & (h0 > 0.0)
    h0 = torch.minimum(torch.where(usable, h0, length * 1e-6), length)
    signed = torch.copysign(h0, t1 - t0)
    end = torch.where(h0 == length, t1, t0 + signed)
    ahead = f(end, torch.addcmul(y, slope, along(signed, y)))
    largest = torch.maximum(d1, tolerance.norm(ahead - slope, y, y) / h0)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / order))
    h1 = torch.where(largest.isfinite(), torch.minimum(100 * h0, h1), h0 * 1e-3)
    return torch.where(usable, torch.minimum(h1, length), h0)
