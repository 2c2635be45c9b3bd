"""Exact gradients with the graph of one evaluation of f at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core import UnsupportedError
from ode_core.samples import SampleProblem
from ode_solvers.gradients.rewind import Rewind, refuse_outside_of_torch, solve_recorded
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row
from ode_solvers.gradients.sample_rewind import solve_samples_recorded
from ode_solvers.gradients.tape import Budget

if TYPE_CHECKING:
    from ode_core import Plan
    from ode_core.problem import Problem
    from ode_core.protocols import VectorField
    from ode_core.replay import Again


@dataclass(frozen=True)
class Symplectic:
    """Exact gradients of the discrete solve with one evaluation's graph at a time.

    As with `checkpoint` one state a step is stored and each step is made again; but what that
    records of an evaluation of f is its time and its state alone, from which the backward pass of
    the step evaluates f once more, with a graph. Memory: one state a step and one a stage; work:
    two more forward solves.

    For Runge-Kutta methods this is the symplectic adjoint method, which needs a table of its own
    there; made of evaluations it serves every solver. Source: Matsubara, Miyatake, Yaguchi,
    Symplectic adjoint method for exact gradient of neural ODE, NeurIPS 2021.
    """

    name: str = "symplectic"
    exact: bool = True
    per_sample: bool = True

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse a solver whose steps torch does not see, and what has no row of its own."""
        refuse_outside_of_torch(plan)
        if isinstance(problem, SampleProblem):
            refuse_what_has_no_row(problem, self.name)

    def solve(self, problem: Problem | SampleProblem, plan: Plan) -> Any:
        """Solve without a graph and attach the replay as the backward pass."""
        if isinstance(problem, SampleProblem):
            return solve_samples_recorded(problem, plan, self.name, _Stages.evaluated)
        return solve_recorded(problem, plan, self.name, Budget(), _Stages)


class _Stages(Rewind):
    """The backward pass of one solve, with one evaluation's graph at a time."""

    @staticmethod
    def evaluated(again: Again) -> VectorField:
        """Return a field that forgets how each of its values came about."""

        def evaluate(t: Any, y: Tensor) -> Tensor:
            slope: Tensor = _Stage.apply(again, t, y, *again.tensors)
            return slope

        return evaluate


class _Stage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, again: Again, t: Any, y: Tensor, *tensors: Tensor) -> Tensor:
        del tensors
        ctx.again, ctx.t = again, t
        ctx.save_for_backward(y)
        # An alias: f may return a tensor of its own, which must not become part of a graph.
        return again(t, y).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "gradient='symplectic' offers no second derivatives (create_graph=True); take "
                "gradient='direct' or 'checkpoint'"
            )
        again = ctx.again
        with torch.enable_grad():
            y = ctx.saved_tensors[0].detach().requires_grad_()
            slope = again(ctx.t, y)
        inputs = (y, *again.tensors)
        if not slope.requires_grad:
            return (None,) * (2 + len(inputs))
        found = torch.autograd.grad(slope, inputs, grad, allow_unused=True)
        return None, None, *found
