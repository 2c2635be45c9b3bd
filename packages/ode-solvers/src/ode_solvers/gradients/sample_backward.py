"""The backward solve of continuous adjoints with per-sample steps, each sample with its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ode_core import FixedSteps, SolveError
from ode_core.loops.sample_march import STATUSES, Put, SampleStep, march_samples
from ode_core.loops.sample_part import SampleLog
from ode_core.rows import where
from ode_core.tolerance import SampleTolerance
from ode_solvers.gradients.sample_augmented import add_step
from ode_solvers.gradients.sample_stops import Impulses, Jumps, stops_back

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core import Plan
    from ode_core.samples import SampleProblem
    from ode_solvers.gradients.sample_anchors import SampleBelt
    from ode_solvers.gradients.sample_augmented import SampleAdjoint
    from ode_solvers.gradients.totals import Totals


@dataclass(frozen=True, eq=False)
class SampleBackward:
    """A backward solve of every sample from its last output to its start.

    Where `belt` is given the solve's own states are held against the outputs', the start and the
    `anchors`, states `[B, K, ...]` at the times `anchored`, `[B, K]`. `nodes`, `[B, N]`, are the
    ends of the forward steps, where they are to be those of this solve, too.
    """

    problem: SampleProblem
    plan: Plan
    name: str
    nodes: Tensor | None = None
    belt: SampleBelt | None = None
    anchored: Tensor | None = None
    anchors: Tensor | None = None

    def pulled(
        self, adjoint: SampleAdjoint, totals: Totals, grad_ys: Tensor, ys: Tensor, y0: Tensor
    ) -> Tensor:
        """Return the gradient of y0, `[B, ...]`; what the steps say is added to `totals`.

        Raises SolveError, which names the samples, where the solve cannot be finished.
        """
        problem, field = self.problem, self.problem.field
        if y0.numel() == 0:
            return torch.zeros_like(y0)
        calls = field.calls
        jumps = Jumps(problem)
        impulses = Impulses(problem, jumps, grad_ys, ys)
        still = impulses.at_start.T
        grad_y0 = torch.where(still.view(*still.shape, *(1,) * (y0.dim() - 1)), grad_ys, 0.0).sum(0)
        if impulses.any:
            run = _Run(self, adjoint, totals, impulses, jumps, ys, y0)
            grad_y0 = grad_y0 + run.gradient()
        problem.stats.backward_f_calls += field.calls - calls
        field.forget()
        return grad_y0


class _Run:
    """One backward solve under way."""

    def __init__(
        self,
        backward: SampleBackward,
        adjoint: SampleAdjoint,
        totals: Totals,
        impulses: Impulses,
        jumps: Jumps,
        ys: Tensor,
        y0: Tensor,
    ) -> None:
        self._backward, self._adjoint, self._totals = backward, adjoint, totals
        self._impulses, self._ys, self._y0 = impulses, ys, y0
        self._first, self._sign = jumps.first, backward.problem.direction
        places = [impulses.times]
        places += [x for x in (backward.anchored, backward.nodes) if x is not None]
        begin = impulses.begin
        self._stops = stops_back(jumps, self._sign, begin, torch.cat(places, 1))
        self._passed = torch.zeros_like(self._stops.count)
        rows = torch.arange(len(y0), device=begin.device)
        a, column = impulses.take(rows, begin)
        y = where(column >= 0, ys[column.clamp(min=0), rows], y0)
        self._state = adjoint.pack(y, a)

    def gradient(self) -> Tensor:
        """Return a at the start of every sample, `[B, ...]`."""
        problem, stops = self._backward.problem, self._stops
        ts = torch.stack([stops.begin, self._first], 1)
        back = replace(problem, y0=self._state.clone(), ts=ts, jumps=None)
        log = SampleLog(len(self._y0), ts.device)
        plan = self._plan()
        steps = march_samples(self._adjoint, back, stops, plan, log)
        sent: Put | None = None
        while True:
            try:
                step = steps.send(sent)
            except StopIteration:
                break
            add_step(self._totals, self._adjoint, plan.solver, step)
            sent = self._reached(step)
        if bool(log.status.any()):
            raise self._lost(log)
        return self._adjoint.adjoint(self._state)

    def _plan(self) -> Plan:
        plan = self._backward.plan
        if isinstance(plan.tolerance, SampleTolerance):
            return replace(plan, tolerance=self._adjoint.tolerance(plan.tolerance))
        # One step from stop to stop, which are the nodes of the forward solve.
        length = (self._stops.begin - self._first).abs()
        return replace(plan, controller=FixedSteps(), dt=torch.where(length > 0.0, length, 1.0))

    def _reached(self, step: SampleStep) -> Put | None:
        """Look at the rows that have come to a stop; return the states from which they go on."""
        stop = self._stops.end[step.rows, self._passed[step.rows]]
        which = (step.accepted & (step.t1 == stop)).nonzero()[:, 0]
        if not len(which):
            return None
        rows, until, state = step.rows[which], step.until[which], step.step.y[which]
        last = self._stops.count[rows] - 1
        self._passed[rows] = (self._passed[rows] + 1).minimum(last)
        state, other = self._met(rows, until, state)
        self._state[rows] = state
        if not bool(other.any()):
            return None
        mask = torch.zeros_like(step.accepted).index_put((which,), other)
        return Put(mask, step.step.y.index_copy(0, which, state))

    def _met(self, rows: Tensor, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return states with what is known at `t`, `[n]`, and the mask of those it changes."""
        grads, column = self._impulses.take(rows, t)
        output = column >= 0
        a = self._adjoint.adjoint(state)
        y = self._adjoint.rebuilt(state)
        if y is None:
            return a + grads, output
        stored = where(output, self._ys[column.clamp(min=0), rows], y)
        if self._backward.belt is not None:
            stored, known = self._known(rows, t, stored, output)
            left = self._backward.belt.left(rows, t, y, stored, known)
            output = output | left
        return self._adjoint.pack(where(output, stored, y), a + grads), output

    def _known(
        self, rows: Tensor, t: Tensor, stored: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the stored states at `t`, where there are such, and the mask of these rows."""
        start = t == self._first[rows]
        stored = where(start, self._y0[rows], stored)
        anchored, anchors = self._backward.anchored, self._backward.anchors
        if anchored is None or anchors is None or not anchored.shape[1]:
            return stored, known | start
        same = anchored[rows] == t[:, None]
        place = same.long().argmax(1)
        held = same.any(1) & ~known & ~start
        return where(held, anchors[rows, place], stored), known | start | held

    def _lost(self, log: SampleLog) -> SolveError:
        backward = self._backward
        failed = log.status.nonzero()[:, 0].tolist()
        row, others = failed[0], f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        begin, first = float(self._stops.begin[row]), float(self._first[row])
        return SolveError(
            f"the backward solve of gradient={backward.name!r} by {backward.plan.solver.name} "
            f"stopped for sample {row} at t = {float(log.t[row]):.6g} on the way from {begin:.6g} "
            f"to {first:.6g}{others}: it {STATUSES[int(log.status[row])].value}; "
            "gradient='checkpoint' needs no backward solve"
        )
