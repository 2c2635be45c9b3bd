"""What `solve` returns, from what a solve with shared or per-sample steps has left."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import PrecisionWarning
from ode_core.layout import Layout
from ode_core.loops.sample_march import STATUSES
from ode_core.problem import Problem
from ode_core.protocols import GradientMethod, Plan
from ode_core.sample_segments import SampleWhole
from ode_core.samples import SampleProblem
from ode_core.segments import Whole
from ode_core.solution import Compiled, Solution, State, Status, StepLog, step_log
from ode_core.tolerance import NORM
from ode_core.transforms import hidden


def result(
    problem: Problem,
    plan: Plan,
    method: GradientMethod,
    whole: Whole,
    t: Any,
    compiled: Compiled | None = None,
) -> tuple[Solution, str]:
    """Return the solution of a solve with shared steps, and its failure in a sentence, or ""."""
    solution = Solution(
        ts=t if isinstance(t, Tensor) else problem.ts,
        ys=problem.layout.unpack(problem.field.seen(whole.ys), 1),
        stats=problem.stats,
        status=whole.status,
        decided_by=_decided(plan),
        state=whole.state,
        event=whole.events[-1] if whole.status is Status.EVENT else None,
        events=tuple(whole.events),
        integrals=whole.integrals,
        steps=step_log(whole.attempts) if plan.record_steps else None,
        pieces=tuple(whole.pieces) if plan.dense else None,
        unpack=_Unpack(problem.layout, problem.dtype),
        undifferentiable=_undifferentiable(method, whole.ys),
        start=problem.y0,
        hint=whole.hint,
        switches=whole.switches,
        compiled=compiled,
    )
    if whole.status.failed:
        stats = problem.stats
        return solution, (
            f"{plan.solver.name} stopped at t = {whole.stopped_at:.6g} on the way from "
            f"{problem.times[0]:.6g} to {problem.times[-1]:.6g} after {stats.accepted} accepted "
            f"and {stats.rejected} rejected steps: it {whole.status.value}"
            + (f"; {whole.hint}" if whole.hint else "")
        )
    _warn_if_frozen(problem, whole.ys)
    return solution, ""


def sample_result(
    problem: SampleProblem, plan: Plan, method: GradientMethod, whole: SampleWhole, t: Any
) -> tuple[Solution, str]:
    """Return the solution of a solve with per-sample steps, and its failures in a sentence."""
    codes = whole.status.tolist()
    status = tuple(STATUSES[code] for code in codes)
    failed = [row for row, code in enumerate(codes) if code and STATUSES[code].failed]
    state = None
    if not failed:
        at = (
            problem.start
            if not status
            else torch.where(whole.stopped_at.isnan(), problem.end, whole.stopped_at)
        )
        y = problem.layout.unpack(problem.field.seen(whole.end))
        state = State(y, at, whole.dt, delay=_delay(whole))
    solution = Solution(
        ts=t if isinstance(t, Tensor) else problem.ts,
        ys=problem.layout.unpack(problem.field.seen(whole.ys), 1),
        stats=problem.stats,
        status=status,
        decided_by=_decided(plan),
        state=state,
        event=whole.event,
        events=tuple(whole.events),
        integrals=whole.integrals,
        steps=_sample_log(whole) if plan.record_steps else None,
        pieces=tuple(whole.pieces) if plan.dense else None,
        unpack=_Unpack(problem.layout, problem.dtype),
        undifferentiable=_undifferentiable(method, whole.ys),
        start=problem.y0,
    )
    if not failed:
        return solution, ""
    row = failed[0]
    others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    return solution, (
        f"{plan.solver.name} could not finish {len(failed)} of {len(status)} samples: sample {row} "
        f"stopped at t = {float(whole.stopped_at[row]):.6g}{others}; it {status[row].value}; "
        "on_failure='return' gives the others"
    )


def _delay(whole: SampleWhole) -> Tensor | None:
    """Return zeros, `[B]`, with the gradients of the times of the events that ended samples."""
    if whole.event is None or not whole.event.t.requires_grad:
        return None
    t = whole.event.t
    ended = ~t.detach().isnan()
    return torch.where(ended, t - t.detach().nan_to_num(), 0.0)


@dataclasses.dataclass(frozen=True)
class _Unpack:
    """Restores the user's structure and dtype; an object, so that solutions pickle."""

    layout: Layout
    dtype: torch.dtype

    def __call__(self, states: Tensor, lead: int) -> Any:
        return self.layout.unpack(states.to(self.dtype), lead)


def _decided(plan: Plan) -> str:
    if plan.tolerance is None:
        return "given steps"
    estimate = getattr(plan.solver, "error_estimate", "error estimate of " + plan.solver.name)
    return f"{estimate}; {NORM}"


def _undifferentiable(method: GradientMethod, ys: Tensor) -> str:
    if method.name == "direct" or not ys.requires_grad:
        return ""
    return (
        f"interpolate carries no gradient with gradient={method.name!r}; call it under "
        "torch.no_grad(), or take gradient='direct'"
    )


def _sample_log(whole: SampleWhole) -> StepLog:
    if not whole.attempts:
        empty = step_log([])
        return dataclasses.replace(empty, sample=torch.zeros(0, dtype=torch.long))
    columns = [torch.cat(column).detach().cpu() for column in zip(*whole.attempts, strict=True)]
    return StepLog(*columns)


def _warn_if_frozen(problem: Problem, ys: Tensor) -> None:
    """Warn where so many steps were taken that each was lost in the state's rounding."""
    lost = problem.stats.accepted * torch.finfo(problem.y0.dtype).eps
    if lost < 1e-3 or hidden(ys) or problem.times[0] == problem.times[-1]:
        return
    with torch.no_grad():
        if not torch.equal(ys[-1], problem.y0):
            return
        slope = problem.field(problem.times[-1], problem.y0.detach())
        problem.stats.f_calls += 1
        change = float(slope.abs().max()) * abs(problem.times[-1] - problem.times[0])
    if change > 0.0:
        warnings.warn(
            f"the state did not move in {problem.stats.accepted} steps although f asks for a "
            f"change of about {change:.2g}: each step is below what {problem.y0.dtype} can "
            "hold; take larger steps, or a wider dtype",
            PrecisionWarning,
            stacklevel=6,
        )
