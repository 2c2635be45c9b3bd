"""The continuous adjoint along the forward solve's dense output: nothing is solved twice."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from ode_core.attach import attach, refuse_transforms
from ode_core.capture import Watched
from ode_core.interpolation import interpolant
from ode_core.loops.outputs import forward
from ode_core.replay import Replay
from ode_core.samples import SampleProblem
from ode_core.solution import Piece
from ode_solvers.gradients.backward import Backward, following, packed_plan, pulled, system, until
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row
from ode_solvers.gradients.sample_interpolated import solve_samples_interpolated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem


@dataclass(frozen=True)
class Interpolated:
    """Gradients from the adjoint ODE along the dense output that the forward solve has left.

    Backwards from t1 only a' = -a df/dy is solved, with y read from the steps' own polynomials: a
    solution that cannot be solved backwards does no harm. Its steps are chosen anew, whatever the
    polynomials' ends; fixed ones go back over the nodes of the forward solve. The parameters'
    gradient is summed up step by step. It converges with the tolerance of the solve, whose
    polynomials it goes by, and is not the gradient of the discrete solve. Memory: the slopes of
    every accepted step, or with per-sample steps the states at as many points of it as its
    polynomial needs.

    Source: Hindmarsh et al., SUNDIALS, ACM TOMS 31 (2005), section 3.3 (CVODES); Daulbaev et al.,
    Interpolation technique to speed up gradients propagation in neural ODEs, NeurIPS 2020.
    """

    name: str = "interpolated"
    exact: bool = False
    differentiates_time: bool = True
    per_sample: bool = True

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse what has no row of its own."""
        del plan
        if isinstance(problem, SampleProblem):
            refuse_what_has_no_row(problem, self.name)

    def solve(self, problem: Problem | SampleProblem, plan: Plan) -> Any:
        """Solve without a graph, keep every step's polynomial and attach the backward solve."""
        back = replace(plan, dt=None, dense=False, record_steps=False, start=None)
        if not plan.solver.adaptive:
            back = replace(back, tolerance=None)
        if isinstance(problem, SampleProblem):
            return solve_samples_interpolated(problem, plan, back, self.name)
        if not torch.is_grad_enabled():
            return forward(problem, plan)
        refuse_transforms(self.name, problem.y0)
        replay = Replay(problem.field, problem.y0.device)
        watched = Watched(problem.field)
        pieces: list[Piece] = []

        def keep(accepted: Accepted, outputs: list[int]) -> None:
            del outputs
            span = accepted.span
            at = interpolant(plan.solver, watched, span, accepted.y0, accepted.step)
            pieces.append(Piece(*span, accepted.until, at))

        detached = replace(problem, y0=problem.y0.detach())
        with torch.no_grad():
            trajectory = forward(detached, plan, on_step=keep, watched=watched)
        replay.settle()
        if trajectory.status.failed:
            return trajectory
        problem = problem.at(trajectory.times, trajectory.wanted)
        nodes = [problem.times[0], *(piece.t1 for piece in pieces)]
        back = following(back, plan, trajectory)
        ends = until(nodes, problem.times[-1])
        pull = _Pull(problem, back, ends, tuple(pieces), self.name, replay)
        tensors = watched.tensors
        if problem.ts.requires_grad:
            tensors = (*tensors, problem.ts)
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, tensors)
        return trajectory


@dataclass(frozen=True)
class _Pull:
    """The backward pass of one solve."""

    problem: Problem
    plan: Plan
    nodes: tuple[float, ...]
    pieces: tuple[Piece, ...]
    name: str
    replay: Replay

    @property
    def held(self) -> tuple[Tensor, ...]:
        """What the steps' polynomials are made of, where they are objects with attributes."""
        made = [piece.at for piece in self.pieces if hasattr(piece.at, "__dict__")]
        parts = [list(vars(at).values()) for at in made]
        return tuple(x for x in pytree.tree_leaves(parts) if isinstance(x, torch.Tensor))

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        timed = self.problem.ts.requires_grad
        with self.replay.again(tensors[:-1] if timed else tensors) as again:
            # SciPy's steps see the parameters' gradient in the state.
            inside = getattr(self.plan.solver, "chooses_steps", False)
            adjoint, totals = system(
                again,
                y0,
                again.tensors,
                self.plan,
                inside=inside,
                semi=False,
                timed=timed,
                path=self._state,
            )
            plan = packed_plan(self.plan, adjoint, self.nodes, semi=False)
            back = Backward(self.problem, plan, self.name)
            return pulled(back, adjoint, totals, (grad_ys, ys, y0), timed=timed)

    def _state(self, t: float) -> Tensor:
        sign = self.problem.direction
        index = bisect_left(self.pieces, sign * t, key=lambda piece: sign * piece.t1)
        piece = self.pieces[min(index, len(self.pieces) - 1)]
        return piece.at(min(max((t - piece.t0) / (piece.t1 - piece.t0), 0.0), 1.0))
