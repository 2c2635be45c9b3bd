"""The continuous adjoint of a solve in which every sample has its own steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ode_core.attach import attach
from ode_core.capture import Watched
from ode_core.loops.sample_outputs import forward_samples
from ode_core.planning import DEFAULT_ATOL, DEFAULT_RTOL
from ode_core.rows import along
from ode_core.timegrad import move_outputs, move_start
from ode_core.tolerance import SampleTolerance
from ode_solvers.gradients.anchors import loosest
from ode_solvers.gradients.sample_anchors import SampleAnchors, SampleBelt
from ode_solvers.gradients.sample_augmented import StateAndAdjoint
from ode_solvers.gradients.sample_backward import SampleBackward
from ode_solvers.gradients.sample_forward import solved_samples
from ode_solvers.gradients.sample_nodes import Nodes
from ode_solvers.gradients.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan, Tolerance
    from ode_core.loops.sample_march import SampleStep
    from ode_core.loops.sample_outputs import Due, SampleTrajectory
    from ode_core.replay import Replay
    from ode_core.samples import SampleProblem
    from ode_solvers.gradients.adjoint import Adjoint


def solve_samples_adjoint(
    given: SampleProblem, plan: Plan, back: Plan, method: Adjoint
) -> SampleTrajectory:
    """Solve without a graph and attach the backward solve, whose plan is `back`."""
    back = _by_rows(back, given.y0)
    if not torch.is_grad_enabled():
        return forward_samples(given, plan)
    timed = given.ts.requires_grad
    problem = replace(given, y0=move_start(given)) if timed else given
    nodes = Nodes(problem.start) if back.tolerance is None else None
    anchors = SampleAnchors(method.anchors, problem.start, problem.y0)

    def keep(step: SampleStep, dues: list[Due]) -> None:
        del dues
        if nodes is not None:
            nodes.see(step)
        anchors.see(step)

    watched = Watched(problem.field)
    made, replay = solved_samples(problem, plan, method.name, watched, keep)
    if back.solver is plan.solver and back.tolerance is plan.tolerance is not None:
        back = replace(back, dt=made.log.dt)
    seen = watched.tensors
    tensors = seen if method.parameters is None else method.parameters
    named = {id(x) for x in tensors}
    others = tuple(x for x in seen if id(x) not in named)
    belt = None if method.anchors == 0 else _belt(method, plan, back, problem.y0)
    ends = None if nodes is None else nodes.times()
    backward = SampleBackward(problem, back, method.name, ends, belt, anchors.times, anchors.states)
    pull = _Pull(backward, others, replay, None if method.norm == "semi" else back.tolerance)
    made.ys = attach(method.name, pull, made.ys, problem.y0, tensors)
    if timed:
        made.ys = move_outputs(given, made.ys)
    return made


def _by_rows(plan: Plan, y0: Tensor) -> Plan:
    """Return the plan with a tolerance for rows; the method's own may be a shared one."""
    tolerance = plan.tolerance
    if tolerance is None or isinstance(tolerance, SampleTolerance):
        return plan
    return replace(
        plan, tolerance=SampleTolerance(_rows(tolerance.rtol, y0), _rows(tolerance.atol, y0))
    )


def _rows(x: float | Tensor, y0: Tensor) -> float | Tensor:
    if not isinstance(x, torch.Tensor):
        return x
    return along(x, y0) if x.shape == (len(y0),) else x.expand(y0.shape)


def _belt(method: Adjoint, plan: Plan, back: Plan, y0: Tensor) -> SampleBelt:
    tolerances = back.tolerance, plan.tolerance
    default = SampleTolerance(DEFAULT_RTOL, DEFAULT_ATOL)
    known = [x if isinstance(x, SampleTolerance) else default for x in tolerances]
    allowed = loosest(known, y0.dtype)
    return SampleBelt(
        [SampleTolerance(allowed.rtol, allowed.atol)],
        "take gradient='checkpoint', a tighter tolerance, smaller steps or more anchors",
        strict=method.drift == "raise" and None not in tolerances,
    )


@dataclass(frozen=True, eq=False)
class _Pull:
    """The backward pass of one solve."""

    backward: SampleBackward
    others: tuple[Tensor, ...]
    replay: Replay
    tolerance: Tolerance | None

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The stored states."""
        anchors = self.backward.anchors
        return () if anchors is None else (anchors,)

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        with self.replay.again((*tensors, *self.others)) as again:
            totals = Totals(again.tensors[: len(tensors)], y0, self.tolerance)
            adjoint = StateAndAdjoint(again)
            grad_y0 = self.backward.pulled(adjoint, totals, grad_ys, ys.detach(), y0.detach())
        return grad_y0, totals.gradients()
