"""The step loop of per-sample steps: masked rows, each with its own step, verdict and failure."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_core.control import FixedSteps, reach
from ode_core.loops.sample_leaving import Evaluate, alike, pays
from ode_core.loops.sample_part import Part, SampleLog, begin, begin_anew
from ode_core.numbers import (
    Numbers,
    at_least,
    at_most,
    choose,
    larger,
    maybe,
    numbers,
    refused,
    smaller,
    tensor,
)
from ode_core.rows import by_row, where
from ode_core.solution import Status
from ode_core.tolerance import all_finite

if TYPE_CHECKING:
    from ode_core.protocols import Plan, Step
    from ode_core.samples import SampleProblem, Stops

STATUSES = tuple(Status)
"""What the `[B]` codes of a log stand for."""
_MAX_STEPS = STATUSES.index(Status.MAX_STEPS)
_TOO_SMALL = STATUSES.index(Status.STEP_TOO_SMALL)
_NOT_FINITE = STATUSES.index(Status.NOT_FINITE)


class Clock(NamedTuple):
    """The numbers of an attempted step, as the loop has them: those of `SampleStep`."""

    rows: Numbers
    t0: Numbers
    t1: Numbers
    until: Numbers
    accepted: Numbers


class SampleStep(NamedTuple):
    """One attempted step of the samples `rows`, `[b]`, which are still in the batch.

    `carry` is the solver's at the start of the step. `accepted` is `[b]`; rows that were rejected,
    or have finished, are False. `until` is the time up to which an accepted row answers for its
    solution.
    """

    rows: Tensor
    t0: Tensor
    t1: Tensor
    until: Tensor
    y0: Tensor
    carry: Any
    step: Step
    accepted: Tensor
    clock: Clock


class Put(NamedTuple):
    """Sent back: the states, `[b, ...]`, from which the rows of the mask, `[b]`, go on."""

    rows: Tensor
    y: Tensor


def march_samples(
    f: Evaluate,
    problem: SampleProblem,
    stops: Stops,
    plan: Plan,
    log: SampleLog,
) -> Generator[SampleStep, Tensor | Put | None, None]:
    """Yield attempted steps until every sample has reached its end or failed.

    A mask `[b]` that is sent back ends the solve of those rows at the step just made. States that
    are sent back replace those reached (an impulse, a reset): the solver starts anew from them,
    with the step size that it had.
    """
    part = begin(f, problem, stops, plan)
    attempt = _given if isinstance(plan.controller, FixedSteps) else _chosen
    # Functions of events and integrands may know the size of the batch, and are not asked.
    may_leave: bool | None = False if problem.given.asks else None
    while part.active:
        if may_leave is not False and pays(part):
            keep = tensor(part.live).nonzero()[:, 0]
            if may_leave is None:
                may_leave = alike(f, part, keep)
            if may_leave:
                part.note(log)
                part = part.kept(keep)
        made = attempt(f, part, plan, log)
        calls = part.field.calls
        sent = yield made
        # Calls between steps are counted by those who make them.
        part.base += part.field.calls - calls
        put = sent if isinstance(sent, Put) else None
        if put is not None:
            part.y = where(put.rows, put.y, part.y)
        elif isinstance(sent, Tensor):
            part.finish(numbers(sent) & part.live)
        if put is not None or part.resume is not None:
            fresh = made.clock.accepted & (made.clock.until != made.clock.t1)
            fresh = fresh if put is None else fresh | numbers(put.rows)
            begin_anew(f, part, fresh & part.live, plan)
    part.note(log)


def _chosen(f: Evaluate, part: Part, plan: Plan, log: SampleLog) -> SampleStep:
    """Attempt a step whose size the controller chooses, and move the part on."""
    controller: Any = plan.controller
    least, most = getattr(controller, "dt_min", 0.0), getattr(controller, "dt_max", math.inf)
    t, dt = part.t, part.dt
    dt = at_least(dt, least) if least else dt
    dt = at_most(dt, most) if most < math.inf else dt
    t1, cut = _cut(part, t + part.sign * dt, reach(dt, most))
    start, end = tensor(t), tensor(t1)
    made = plan.solver.step(f, start, end, part.y, part.carry, part.tolerance)
    part.attempts += 1
    error = _ratios(made.error, dt, least)
    order = getattr(plan.solver, "error_order", plan.solver.order)
    accept, factor, part.memory = _judged(controller, error, order, part.memory)
    accept = accept & part.live
    made = _without_refused(f, part, plan, made, end, accept)
    step = _made(part, made, (start, end), t1, cut, accept)
    if plan.record_steps:
        _record(part, log, step, error)
    _move(part, step)
    if cut is None:
        part.dt = dt * factor
    else:
        reached, sized = accept & cut, smaller(dt, abs(t1 - t)) * factor
        # A step cut short at a stop says little about the size that the next one can have.
        sized = choose(reached & (factor >= 1.0), larger(dt, sized), sized)
        part.dt = choose(part.live, sized, dt)
        _stop(part, reached)
    _fail(part, plan, error, least)
    return step


def _given(f: Evaluate, part: Part, plan: Plan, log: SampleLog) -> SampleStep:
    """Take a step of the given size, and move the part on."""
    # i * dt keeps rounding out of the nodes.
    passed = ((part.t - part.t0) * part.sign / part.dt + 1e-9) // 1.0
    t1, cut = _cut(part, part.t0 + part.sign * part.dt * (passed + 1.0), 1e-9 * part.dt)
    start, end, accept = tensor(part.t), tensor(t1), part.live
    made = plan.solver.step(f, start, end, part.y, part.carry, None)
    part.attempts += 1
    step = _made(part, made, (start, end), t1, cut, accept)
    if plan.record_steps:
        _record(part, log, step, part.dt * math.nan)
    _move(part, step)
    # Also in the last step: what is not finite is no result.
    if not made.y.is_cpu or not all_finite(made.y):
        blown = numbers(~by_row(made.y.detach()).isfinite().all(1)) & part.live
        if maybe(blown):
            part.finish(blown, _NOT_FINITE)
    if cut is not None:
        _stop(part, accept & cut & part.live)
    _fail_of_attempts(part, plan)
    return step


def _cut(part: Part, t1: Numbers, slack: Numbers) -> tuple[Numbers, Numbers | None]:
    """Return where steps end, none beyond its stop, and which end at it; None for none.

    A stop is reached from so far before it.
    """
    cut = (part.end - t1) * part.sign < slack
    return (choose(cut, part.end, t1), cut) if maybe(cut) else (t1, None)


def _ratios(error: Any, dt: Numbers, least: float) -> Numbers:
    if error is None:
        return dt * 0.0
    if not isinstance(error, Tensor) or error.shape != dt.shape or error.dtype != torch.float64:
        like = tensor(dt)
        error = torch.as_tensor(error, dtype=torch.float64, device=like.device).expand_as(like)
    ratio = refused(numbers(error))
    if not least:
        return ratio
    # The least step is taken whatever its error is, unless that is none at all.
    return choose((dt <= least) & (ratio < math.inf), at_most(ratio, 1.0), ratio)


def _judged(controller: Any, error: Numbers, order: int, memory: Any) -> tuple[Any, Any, Any]:
    """Return whether steps are accepted, the factors on their sizes, and the memory."""
    own = getattr(controller, "judge_numbers", None)
    if own is not None:
        verdict: tuple[Any, Any, Any] = own(error, order, memory)
        return verdict
    accept, factor, memory = controller.judge(tensor(error), order, memory)
    return numbers(accept), numbers(factor), memory


def _made(
    part: Part,
    made: Step,
    span: tuple[Tensor, Tensor],
    t1: Numbers,
    cut: Numbers | None,
    accept: Numbers,
) -> SampleStep:
    end, until = span[1], t1
    if part.resume is not None and cut is not None:
        until = choose(accept & cut, part.resume, t1)
        end = tensor(until)
    clock = Clock(part.own, part.t, t1, until, accept)
    return SampleStep(part.rows, *span, end, part.y, part.carry, made, tensor(accept), clock)


def _move(part: Part, step: SampleStep) -> None:
    """Let accepted rows go to the end of the step."""
    made, accept, until = step.step, step.clock.accepted, step.clock.until
    part.accepted += accept
    if not maybe(~(accept | part.settled)):
        # Of rows that stand still the end of the step is the start.
        part.t, part.y, part.carry = until, made.y, made.carry
        return
    again = part.carry if made.retry is None else made.retry
    part.t = choose(accept, until, part.t)
    part.y = where(step.accepted, made.y, part.y)
    part.carry = where(step.accepted, made.carry, again)


def _stop(part: Part, reached: Numbers) -> None:
    """Let rows that have reached a stop go for the next, or end at the last."""
    if not maybe(reached):
        return
    if part.resume is None:
        part.finish(reached)
        return
    part.stop = part.stop + tensor(reached)
    part.finish(numbers(part.stop >= part.stops.count) & reached)
    place = torch.minimum(part.stop, part.stops.count - 1)[:, None]
    part.end = choose(part.live, numbers(part.stops.end.gather(1, place)[:, 0]), part.end)
    part.resume = numbers(part.stops.resume.gather(1, place)[:, 0])


def _record(part: Part, log: SampleLog, step: SampleStep, error: Numbers) -> None:
    live = tensor(part.live)
    start, size = step.t0[live], (step.t1 - step.t0)[live]
    log.attempts.append((start, size, tensor(error)[live], step.accepted[live], part.rows[live]))


def _without_refused(
    f: Evaluate, part: Part, plan: Plan, made: Step, end: Tensor, accept: Numbers
) -> Step:
    """Make the step again with refused rows standing still, where a graph is being recorded.

    A value that is not finite leaves NaN in the gradients of the rest, whatever masks it.
    """
    if not (torch.is_grad_enabled() and made.y.requires_grad):
        return made
    with torch.no_grad():
        harmless = by_row(made.y.detach()).isfinite().all(1) | tensor(accept)
    if bool(harmless.all()):
        return made
    still = torch.where(harmless, end, start := tensor(part.t))
    again = plan.solver.step(f, start, still, part.y, part.carry, part.tolerance)
    return again._replace(error=made.error)


def _fail(part: Part, plan: Plan, error: Numbers, least: float) -> None:
    """End rows whose steps the clock cannot tell from nothing, or that have tried too often."""
    # Those of rows that have ended are 0.
    if maybe(part.dt < max(part.least, least), len(part.rows) - part.active):
        ahead = torch.nextafter(tensor(part.t), tensor(part.sign * math.inf))
        blown = error == math.inf
        small = (part.dt < 10.0 * abs(numbers(ahead) - part.t)) | (blown & (part.dt < least))
        small = small & part.live
        for failed, status in ((small & blown, _NOT_FINITE), (small & ~blown, _TOO_SMALL)):
            if maybe(failed):
                part.finish(failed, status)
    _fail_of_attempts(part, plan)


def _fail_of_attempts(part: Part, plan: Plan) -> None:
    if part.attempts >= plan.max_steps and part.active:
        part.finish(part.live, _MAX_STEPS)
