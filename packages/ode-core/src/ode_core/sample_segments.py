"""A solve with per-sample steps, pass by pass: samples whose state an event resets go on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ode_core.events import Occurrence, attached, later
from ode_core.layout import SampleLayout
from ode_core.loops.sample_events import SampleEvents
from ode_core.loops.sample_march import STATUSES
from ode_core.loops.sample_outputs import SamplePiece, SampleTrajectory
from ode_core.loops.sample_part import Attempt
from ode_core.protocols import GradientMethod, Plan
from ode_core.rows import where
from ode_core.samples import SampleProblem
from ode_core.solution import State, Stats, Status
from ode_core.timegrad import move_outputs, move_start


@dataclass(eq=False)
class SampleWhole:
    """All passes of a solve: the states `[T, B, ...]`, NaN where a time was not reached.

    `status` are `[B]` codes, `stopped_at` the times and `dt` the step sizes at which samples
    ended, `end` the packed states there.
    """

    ys: Tensor
    stats: Stats
    status: Tensor
    stopped_at: Tensor
    dt: Tensor
    integrals: Tensor | None = None
    end: Any = None
    event: Occurrence | None = None
    events: list[Occurrence] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    pieces: list[SamplePiece] = field(default_factory=list)


def solve_samples(problem: SampleProblem, plan: Plan, method: GradientMethod) -> SampleWhole:
    """Solve, going on from every event that resets a sample's state."""
    trajectory = _pass(problem, plan, method)
    log = trajectory.log
    stats = problem.stats
    stats.f_calls, stats.accepted = stats.f_calls + log.f_calls, log.accepted
    stats.rejected = log.rejected
    whole = SampleWhole(trajectory.ys, stats, log.status, log.t, log.dt, trajectory.integrals)
    whole.end = _end(problem, trajectory.ys)
    rest, carried = problem, trajectory.total
    while True:
        whole.attempts += log.attempts
        whole.pieces += trajectory.pieces
        whole.events += [_occurrence(rest, seen) for seen in trajectory.seen]
        ended = trajectory.ended
        if ended is None or not bool((ended.event >= 0).any()):
            return whole
        made = _occurrence(rest, ended)
        whole.events.append(made)
        going = _stop(whole, rest, made)
        if not bool(going.any()):
            return whole
        rest, plan = _after(problem, rest, plan, whole, made, going)
        trajectory = _pass(rest, plan, method)
        log = trajectory.log
        _join(whole, problem, trajectory, going, made.t.detach(), carried)
        if carried is not None and trajectory.total is not None:
            total = trajectory.total
            carried = carried + where(going, total, torch.zeros_like(total))


def _pass(problem: SampleProblem, plan: Plan, method: GradientMethod) -> SampleTrajectory:
    timed = problem.ts.requires_grad and torch.is_grad_enabled()
    if not timed or getattr(method, "differentiates_time", False):
        return _made(problem, plan, method)
    made = _made(dataclasses.replace(problem, y0=move_start(problem)), plan, method)
    made.ys = move_outputs(problem, made.ys)
    return made


def _made(problem: SampleProblem, plan: Plan, method: GradientMethod) -> SampleTrajectory:
    """Solve in one go where the solver can, else as the gradient method does, step by step."""
    whole: Any = getattr(plan.solver, "whole", None)
    made: SampleTrajectory | None = None if whole is None else whole(problem, plan, method)
    if made is None:
        solve: Any = method.solve
        made = solve(problem, plan)
    return made


def _end(problem: SampleProblem, ys: Tensor) -> Tensor:
    """Return the states at the last time of each sample, `[B, ...]`, NaN where not reached."""
    if not len(problem.y0):
        return problem.y0
    if not problem.padded:
        return ys[-1]
    last = (~problem.ts.detach().isnan()).sum(1) - 1
    return ys[last, torch.arange(len(last), device=last.device)]


def _occurrence(problem: SampleProblem, seen: SampleEvents) -> Occurrence:
    """Return events with the gradients of their times; NaN for samples without one."""
    field = problem.field
    hit = seen.event >= 0
    t = torch.where(hit, seen.t, problem.start)
    y = where(hit, seen.y, problem.y0.detach())
    if torch.is_grad_enabled():
        for index, event in enumerate(problem.given.events):
            mine = seen.event == index
            if bool(mine.any()):
                calls = field.calls
                moved, state = attached(field, event, t, y)
                problem.stats.f_calls += mine * (field.calls - calls)
                t, y = torch.where(mine, moved, t), where(mine, state, y)
    t = torch.where(hit, t, math.nan)
    y = where(hit, y, torch.full_like(y, math.nan))
    return Occurrence(seen.event, t, field.layout.unpack(field.seen(y)))


def _stop(whole: SampleWhole, problem: SampleProblem, made: Occurrence) -> Tensor:
    """Note where samples have ended at an event; return the mask of those that go on, reset."""
    index, layout = torch.as_tensor(made.event), problem.layout
    resets = torch.tensor([e.reset is not None for e in problem.given.events], device=index.device)
    hit = index >= 0
    going = hit & resets[index.clamp(min=0)]
    stopped = hit & ~going
    if bool(stopped.any()):
        packed = widened_rows(layout, made.y)
        whole.end = where(stopped, packed, whole.end)
        whole.stopped_at = torch.where(stopped, made.t.detach(), whole.stopped_at)
        whole.status = torch.where(stopped, STATUSES.index(Status.EVENT), whole.status)
        none = Occurrence(torch.full_like(index, -1), torch.full_like(made.t, math.nan), None)
        before = whole.event or none
        old = packed if before.y is None else widened_rows(layout, before.y)
        old = torch.full_like(packed, math.nan) if before.y is None else old
        whole.event = Occurrence(
            torch.where(stopped, index, torch.as_tensor(before.event)),
            torch.where(stopped, made.t, before.t),
            layout.unpack(problem.field.seen(where(stopped, packed, old))),
        )
    return going


def widened_rows(layout: SampleLayout, y: Any) -> Tensor:
    """Return a batch of the user's structure as one tensor in the dtype that steps are made in."""
    packed = layout.pack(y, "a state")
    return packed.float() if packed.dtype in (torch.float16, torch.bfloat16) else packed


def _after(
    first: SampleProblem,
    problem: SampleProblem,
    plan: Plan,
    whole: SampleWhole,
    made: Occurrence,
    going: Tensor,
) -> tuple[SampleProblem, Plan]:
    """Return the problem of the samples that go on; the others stand still."""
    field, layout = problem.field, problem.layout
    at = torch.where(going, made.t.detach(), first.end)
    t = torch.where(going, made.t, first.end)
    still = problem.y0.detach()
    y = where(going, widened_rows(layout, made.y), still)
    start = still
    for index, event in enumerate(problem.given.events):
        if event.reset is not None:
            mine = going & (torch.as_tensor(made.event) == index)
            new = widened_rows(layout, event.reset(field.time(t), layout.unpack(field.seen(y))))
            start = where(mine, new, start)
    times, sign = first.ts, first.direction[:, None]
    beyond = (times.detach() - at[:, None]) * sign > 0.0
    rest = torch.where(beyond | times.isnan(), times, at[:, None])
    ts = torch.cat([at[:, None], rest], 1)
    jumps = first.jumps
    if jumps is not None:
        # The state that a jump on the event itself leads to is given.
        ahead = torch.where((jumps - at[:, None]) * sign > 0.0, jumps * sign, math.inf)
        ahead = ahead.sort(1).values
        jumps = torch.where(ahead.isinf(), math.nan, ahead) * sign
    kept = dataclasses.replace(problem, y0=start, ts=ts, jumps=jumps)
    if t.requires_grad:
        kept = later(kept, torch.where(going, t - at, 0.0))
    return kept, dataclasses.replace(plan, start=State(None, at, whole.dt))


def _join(
    whole: SampleWhole,
    first: SampleProblem,
    trajectory: SampleTrajectory,
    going: Tensor,
    at: Tensor,
    carried: Tensor | None,
) -> None:
    """Add what the samples that went on have reached."""
    log, stats = trajectory.log, first.stats
    stats.f_calls = stats.f_calls + log.f_calls
    stats.accepted = stats.accepted + log.accepted
    stats.rejected = stats.rejected + log.rejected
    whole.status = torch.where(going, log.status, whole.status)
    whole.stopped_at = torch.where(going, log.t, whole.stopped_at)
    whole.dt = torch.where(going, log.dt, whole.dt)
    beyond = (first.ts.detach() - at[:, None]) * first.direction[:, None] > 0.0
    new = (going[:, None] & beyond).T
    whole.ys = _spread(new, trajectory.ys[1:], whole.ys)
    whole.end = where(going, _end(first, whole.ys), whole.end)
    if whole.integrals is not None and trajectory.integrals is not None:
        later = trajectory.integrals[1:] + (0.0 if carried is None else carried)
        whole.integrals = _spread(new, later, whole.integrals)


def _spread(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.view(*mask.shape, *(1,) * (no.dim() - 2)), yes, no)
