"""The step loop of per-sample steps: masked rows, each with its own step, verdict and failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_core.control import FixedSteps
from ode_core.loops.sample_part import Counted, Part, SampleLog, begin
from ode_core.rows import by_row, where
from ode_core.solution import Status

if TYPE_CHECKING:
    from ode_core.protocols import Plan, Step
    from ode_core.samples import SampleProblem, Stops

STATUSES = tuple(Status)
"""What the `[B]` codes of a log stand for."""
_MAX_STEPS = STATUSES.index(Status.MAX_STEPS)
_TOO_SMALL = STATUSES.index(Status.STEP_TOO_SMALL)
_NOT_FINITE = STATUSES.index(Status.NOT_FINITE)
# So many entries of finished rows are worth copying the rest.
_WORTH = 1 << 16


@dataclass(frozen=True, eq=False)
class SampleStep:
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


class Put(NamedTuple):
    """Sent back: the states, `[b, ...]`, from which the rows of the mask, `[b]`, go on."""

    rows: Tensor
    y: Tensor


def march_samples(
    f: Callable[[Any, Tensor], Tensor],
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
    counted = Counted(f, problem, log)
    part = begin(counted, problem, stops, plan, log)
    # Functions of events and integrands may know the size of the batch, and are not asked.
    may_leave: bool | None = False if problem.given.asks else None
    while not bool(part.done.all()):
        active = int((~part.done).sum())
        if may_leave is not False and _pays(active, part.y):
            keep = (~part.done).nonzero()[:, 0]
            if may_leave is None:
                may_leave = _alike(f, part, keep)
            part = part.kept(keep) if may_leave else part
        before = part
        counted.active = (~part.done, part.rows)
        part, made = _attempt(counted, part, plan, log)
        sent = yield made
        if isinstance(sent, Put):
            part.y = where(sent.rows, sent.y, part.y)
        elif sent is not None:
            part.done |= sent
        if isinstance(sent, Put) or part.stops.end.shape[1] > 1:
            fresh = made.accepted & (made.until != made.t1)
            fresh = fresh | sent.rows if isinstance(sent, Put) else fresh
            _begin_anew(counted, before, part, fresh & ~part.done, plan)


def _attempt(f: Counted, part: Part, plan: Plan, log: SampleLog) -> tuple[Part, SampleStep]:
    fixed = isinstance(plan.controller, FixedSteps)
    controller: Any = plan.controller
    order = getattr(plan.solver, "error_order", plan.solver.order)
    stop = part.stops.end.gather(1, part.stop[:, None])[:, 0]
    if fixed:
        # i * dt keeps rounding out of the nodes.
        passed = ((part.t - part.t0) * part.sign / part.dt + 1e-9).floor()
        t1, dt = part.t0 + part.sign * part.dt * (passed + 1.0), part.dt
    else:
        dt = part.dt.clamp(getattr(controller, "dt_min", 0.0), getattr(controller, "dt_max", None))
        t1 = part.t + part.sign * dt
    # The slack keeps a sliver of a step off the end.
    cut = (t1 - stop) * part.sign > -1e-9 * dt
    t1 = torch.where(cut, stop, t1)
    t1 = torch.where(part.done, part.t, t1)
    made = plan.solver.step(f, part.t, t1, part.y, part.carry, None if fixed else part.tolerance)
    live = ~part.done
    if fixed:
        accept, factor, memory = live, None, None
        error = torch.full_like(t1, math.nan)
    else:
        error = _ratios(made.error, dt, getattr(controller, "dt_min", 0.0))
        accept, factor, memory = controller.judge(error, order, part.memory)
        accept = accept & live
        made = _without_refused(f, part, plan, made, t1, accept)
    if plan.record_steps:
        start, size, rows = part.t[live], (t1 - part.t)[live], part.rows[live]
        log.attempts.append((start, size, error[live], accept[live], rows))
    log.accepted[part.rows] += accept
    log.rejected[part.rows] += live & ~accept
    reached = accept & cut
    resume = part.stops.resume.gather(1, part.stop[:, None])[:, 0]
    until = torch.where(reached, resume, t1)
    step = SampleStep(part.rows, part.t, t1, until, part.y, part.carry, made, accept)
    again = part.carry if made.retry is None else made.retry
    after = replace(
        part,
        t=torch.where(accept, until, part.t),
        y=where(accept, made.y, part.y),
        carry=where(accept, made.carry, again),
        memory=memory,
        stop=part.stop + reached,
        attempts=part.attempts + live,
    )
    if factor is not None:
        taken = (t1 - part.t).abs()
        sized = taken * factor
        # A step cut short at a stop says little about the size that the next one can have.
        after.dt = torch.where(
            live, torch.where(accept & cut & (factor >= 1.0), torch.maximum(dt, sized), sized), dt
        )
    after.done = part.done | (after.stop >= part.stops.count)
    after.stop = torch.minimum(after.stop, part.stops.count - 1)
    _fail(after, plan, log, error if not fixed else None, made)
    log.t[part.rows], log.dt[part.rows] = after.t, after.dt
    return after, step


def _ratios(error: Any, dt: Tensor, least: float) -> Tensor:
    if error is None:
        return torch.zeros_like(dt)
    error = torch.as_tensor(error, dtype=torch.float64, device=dt.device).expand_as(dt)
    error = torch.where(error.isnan(), math.inf, error)
    # The least step is taken whatever its error is, unless that is none at all.
    allowed = (dt <= least) & error.isfinite()
    return torch.where(allowed, error.clamp(max=1.0), error) if least else error


def _without_refused(
    f: Counted, part: Part, plan: Plan, made: Step, t1: Tensor, accept: Tensor
) -> Step:
    """Make the step again with refused rows standing still, where a graph is being recorded.

    A value that is not finite leaves NaN in the gradients of the rest, whatever masks it.
    """
    if not (torch.is_grad_enabled() and made.y.requires_grad):
        return made
    with torch.no_grad():
        harmless = by_row(made.y.detach()).isfinite().all(1) | accept
    if bool(harmless.all()):
        return made
    still = torch.where(harmless, t1, part.t)
    again = plan.solver.step(f, part.t, still, part.y, part.carry, part.tolerance)
    return again._replace(error=made.error)


def _fail(part: Part, plan: Plan, log: SampleLog, error: Tensor | None, made: Step) -> None:
    live = ~part.done
    if error is not None:
        ahead = torch.nextafter(part.t, part.sign * math.inf)
        small = live & (part.dt < 10.0 * (ahead - part.t).abs())
        small |= live & error.isinf() & (part.dt < getattr(plan.controller, "dt_min", 0.0))
        code = torch.where(error.isinf(), _NOT_FINITE, _TOO_SMALL)
        _note(part, log, small, code)
    else:
        with torch.no_grad():
            blown = ~by_row(made.y.detach()).isfinite().all(1)
        # Also in the last step: what is not finite is no result.
        _note(
            part, log, blown & (log.status[part.rows] == 0), torch.full_like(part.stop, _NOT_FINITE)
        )
    many = ~part.done & (part.attempts >= plan.max_steps)
    _note(part, log, many, torch.full_like(part.stop, _MAX_STEPS))


def _note(part: Part, log: SampleLog, failed: Tensor, code: Tensor) -> None:
    log.status[part.rows] = torch.where(failed, code, log.status[part.rows])
    part.done |= failed


def _begin_anew(f: Counted, before: Part, part: Part, fresh: Tensor, plan: Plan) -> None:
    """Start the solver anew where a row has passed a jump or got another state, in place."""
    if bool(fresh.any()):
        f.active = (fresh, before.rows)
        part.carry = where(fresh, plan.solver.init(f, part.t, part.y), part.carry)


def _pays(active: int, y: Tensor) -> bool:
    batch = len(y)
    return batch > 1 and (2 * active <= batch or (batch - active) * y[0].numel() >= _WORTH)


def _alike(f: Callable[[Any, Tensor], Tensor], part: Part, keep: Tensor) -> bool:
    """Return whether f gives a part of the batch what it gives the whole.

    It does not where it closes over tensors of the whole batch, or mixes samples.
    """
    with torch.no_grad():
        whole = f(part.t, part.y)[keep]
        try:
            alone = f(part.t[keep], part.y[keep])
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
        if alone.shape != whole.shape:
            return False
        slack = math.sqrt(torch.finfo(whole.dtype).eps)
        return bool(torch.allclose(alone, whole, rtol=slack, atol=slack * float(whole.abs().max())))
