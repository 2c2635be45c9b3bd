"""The step loop on the device: chunks of masked attempts, and one small read for each.

The controller's numbers, the clock and the verdicts stay in device memory; the host learns from
records which steps were accepted. On CUDA a chunk is one CUDA graph. On other devices, and where f
cannot be captured, the same operations run one by one.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import nullcontext
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.control import FixedSteps
from ode_core.errors import UnsupportedError
from ode_core.loops.chunk import Chunk
from ode_core.loops.device_loop import Loop, sent
from ode_core.loops.march import Accepted, Log, Stop, with_stops
from ode_core.loops.pace import (
    CODE,
    DT,
    LEFT,
    MAX_STEPS,
    NOT_FINITE,
    REACHED,
    RUNNING,
    TOO_SMALL,
    DeviceTolerance,
    T,
    TorchPace,
)
from ode_core.solution import Status
from ode_core.tolerance import all_finite

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ode_core.problem import Problem
    from ode_core.protocols import Plan

ON_DEVICE = (
    "graph=True is for solves without gradients, for which it records nothing; call solve within "
    "torch.no_grad(), or drop graph=True"
)
# So many given steps at most are one graph; more are several starts of one.
_GIVEN = 128
_FAILURES = {
    MAX_STEPS: Status.MAX_STEPS,
    TOO_SMALL: Status.STEP_TOO_SMALL,
    NOT_FINITE: Status.NOT_FINITE,
}


def march_on_device(
    problem: Problem, plan: Plan, log: Log, begin: float, stops: Sequence[Stop]
) -> Generator[Accepted, Any, None]:
    """Yield the accepted steps in which a requested time lies, or all that are to be kept.

    What is yielded is valid until the next step is asked for; its new state is in fresh memory.
    """
    y, field = problem.y0, problem.field
    if torch.is_grad_enabled() and (y.requires_grad or field.plain(begin, y).requires_grad):
        raise UnsupportedError(ON_DEVICE)
    loop = Loop(problem, plan, log, stops)
    # Streams, events and graphs are those of the current device, which need not be the state's.
    with torch.no_grad(), torch.cuda.device(y.device) if y.is_cuda else nullcontext():
        make = _given if isinstance(plan.controller, FixedSteps) else _chosen
        yield from make(loop, begin, y.detach())


def _chosen(loop: Loop, t: float, y: Tensor) -> Generator[Accepted, Any, None]:
    plan, log, stops = loop.plan, loop.log, loop.stops
    last = stops[-1].end
    if t == last:
        return
    carry = loop.started(t, y)
    tolerance = plan.tolerance
    assert tolerance is not None  # the front door gives every adaptive plan one
    tolerance = DeviceTolerance(tolerance.rtol, tolerance.atol, tolerance.segments)
    start, solver, controller = plan.start, plan.solver, plan.controller
    assert not isinstance(controller, FixedSteps)  # those are given
    memory = controller.init() if start is None or start.memory is None else start.memory
    dt: Any = plan.dt if start is None or start.dt is None else start.dt
    order = getattr(solver, "error_order", solver.order)
    plain = TorchPace(controller, order, loop.sign, memory)
    if dt is None:
        dt = loop.first(t, y, carry, tolerance)
    else:
        dt = max(dt, _smallest(t, loop.sign))
    left = plan.max_steps - log.stats.accepted - log.stats.rejected
    chunks: list[Chunk] = []
    for stop in stops:
        if t != stop.end:
            if left <= 0:
                return log.fail(Status.MAX_STEPS, t)
            clock = loop.clock(plain, (t, dt, left, stop.end), memory)
            if not chunks:
                chunks = loop.chunks(plain, tolerance, y, carry, clock)
            chunks[0].buffers.set(y, carry, clock)
            last_step = None
            for made in _attempts(loop, chunks, stop):
                if isinstance(made, Accepted):
                    last_step = made
                    if loop.keep and loop.asked(made):
                        yield loop.owned(made)
                    continue
                t, dt, left, code = (made[i] for i in (T, DT, LEFT, CODE))
                memory = plain.remembered(made)
            y = chunks[0].buffers.y.clone()
            carry = pytree.tree_map(torch.clone, chunks[0].buffers.carry)
            log.dt, log.memory = dt, memory
            log.carry = None if solver.one_step else carry
            if code != REACHED:
                return log.fail(_FAILURES[int(code)], t)
            if not loop.keep and last_step is not None:
                yield loop.owned(last_step)
            if t != last and dt < _smallest(t, loop.sign):
                return log.fail(Status.STEP_TOO_SMALL, t)
        if stop.resume != stop.end and t != last:
            carry = solver.init(loop.field, stop.resume, y)
        t = stop.resume
    return None


def _attempts(
    loop: Loop, chunks: list[Chunk], stop: Stop
) -> Generator[Accepted | list[float], None, None]:
    """Yield accepted steps up to a stop, and the clock after each chunk."""
    log, plan = loop.log, loop.plan
    turns, launched = cycle(chunks), deque[Chunk]()
    while True:
        while len(launched) < len(chunks):
            chunk = next(turns)
            chunk.launch(loop.field)
            launched.append(chunk)
        chunk = launched.popleft()
        after: list[float] = []
        for k, (t0, t1, error, accepted, live, *clock) in enumerate(chunk.read()):
            if not live:
                break
            after = clock
            if plan.record_steps:
                log.attempts.append((t0, t1 - t0, error, bool(accepted)))
            if not accepted:
                log.stats.rejected += 1
                continue
            log.stats.accepted += 1
            until = stop.resume if t1 == stop.end else t1
            yield loop.step(chunk, k, (t0, t1, until), error)
        yield after
        if after[CODE] != RUNNING:
            return


def _given(loop: Loop, t: float, y: Tensor) -> Generator[Accepted, Any, None]:
    plan, log, solver = loop.plan, loop.log, loop.plan.solver
    assert isinstance(plan.controller, FixedSteps)  # what brought us here
    first, final = loop.problem.times[0], loop.stops[-1].resume
    ends = with_stops(plan.controller.nodes(first, final, plan.dt), loop.stops)
    if not ends:
        return
    nodes = {stop.end for stop in ends}
    loop.whole = loop.every or any(time not in nodes for time in loop.problem.times[1:])
    loop.keep = loop.whole or any(time not in (t, ends[-1].end) for time in loop.problem.times)
    room = plan.max_steps - log.stats.accepted
    carry = loop.started(t, y)
    for group in _between_jumps(ends[:room]):
        starts = math.ceil(len(group) / _GIVEN)
        count = math.ceil(len(group) / starts)
        still = torch.full((count + 1,), t, dtype=torch.float64, device=y.device)
        (chunk,) = loop.chunks(None, None, y, carry, still)
        chunk.buffers.set(y, carry, still)
        for at in range(0, len(group), count):
            part = group[at : at + count]
            own = [t, *(stop.end for stop in part)]
            padded = own + own[-1:] * (count + 1 - len(own))
            chunk.buffers.clock.copy_(sent(padded, y.device), non_blocking=True)
            chunk.launch(loop.field)
            for k, stop in enumerate(part):
                log.stats.accepted += 1
                if plan.record_steps:
                    log.attempts.append((own[k], own[k + 1] - own[k], math.nan, True))
                made = loop.step(chunk, k, (own[k], own[k + 1], stop.resume), None)
                if loop.asked(made) and (loop.keep or stop is ends[-1]):
                    yield loop.owned(made)
            t = own[-1]
        y = chunk.buffers.y.clone()
        t, carry = group[-1].resume, pytree.tree_map(torch.clone, chunk.buffers.carry)
        if group[-1].resume != group[-1].end and group[-1] is not ends[-1]:
            carry = solver.init(loop.field, t, y)
    log.carry = None if solver.one_step else carry
    if len(ends) > room:
        return log.fail(Status.MAX_STEPS, t)
    if not all_finite(y):
        log.fail(Status.NOT_FINITE, t)
    return None


def _between_jumps(ends: list[Stop]) -> list[list[Stop]]:
    groups: list[list[Stop]] = [[]]
    for stop in ends:
        groups[-1].append(stop)
        if stop.resume != stop.end:
            groups.append([])
    return [group for group in groups if group]


def _smallest(t: float, direction: float) -> float:
    return 10.0 * abs(math.nextafter(t, direction * math.inf) - t)
