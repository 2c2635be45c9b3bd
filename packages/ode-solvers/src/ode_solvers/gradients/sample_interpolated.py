"""The continuous adjoint along the dense output of a solve with per-sample steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ode_core.attach import attach
from ode_core.capture import Watched
from ode_core.loops.sample_outputs import forward_samples
from ode_core.timegrad import move_outputs, move_start
from ode_solvers.gradients.sample_augmented import AdjointAlone
from ode_solvers.gradients.sample_backward import SampleBackward
from ode_solvers.gradients.sample_forward import solved_samples
from ode_solvers.gradients.sample_path import Recorded
from ode_solvers.gradients.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan
    from ode_core.loops.sample_march import SampleStep
    from ode_core.loops.sample_outputs import Due, SampleTrajectory
    from ode_core.replay import Replay
    from ode_core.samples import SampleProblem
    from ode_solvers.gradients.sample_path import SamplePath


def solve_samples_interpolated(
    given: SampleProblem, plan: Plan, back: Plan, name: str
) -> SampleTrajectory:
    """Solve without a graph, keep every step's polynomial and attach the backward solve.

    `back` is the plan of that.
    """
    if not torch.is_grad_enabled():
        return forward_samples(given, plan)
    timed = given.ts.requires_grad
    problem = replace(given, y0=move_start(given)) if timed else given
    watched = Watched(problem.field)
    recorded = Recorded(plan.solver, watched, problem)

    def keep(step: SampleStep, dues: list[Due]) -> None:
        del dues
        recorded.see(step)

    made, replay = solved_samples(problem, plan, name, watched, keep)
    if back.tolerance is not None:
        back = replace(back, dt=made.log.dt)
    path = recorded.path()
    nodes = path.nodes if back.tolerance is None else None
    pull = _Pull(SampleBackward(problem, back, name, nodes), path, replay)
    made.ys = attach(name, pull, made.ys, problem.y0, watched.tensors)
    if timed:
        made.ys = move_outputs(given, made.ys)
    return made


@dataclass(frozen=True, eq=False)
class _Pull:
    """The backward pass of one solve."""

    backward: SampleBackward
    path: SamplePath
    replay: Replay

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The values of the steps' polynomials."""
        return (self.path.values,)

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        with self.replay.again(tensors) as again:
            totals = Totals(again.tensors, y0, self.backward.plan.tolerance)
            adjoint = AdjointAlone(again, self.path)
            grad_y0 = self.backward.pulled(adjoint, totals, grad_ys, ys.detach(), y0.detach())
        return grad_y0, totals.gradients()
