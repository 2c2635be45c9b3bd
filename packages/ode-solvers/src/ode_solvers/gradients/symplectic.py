"""Exact gradients with the graph of one evaluation of f at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core import UnsupportedError
from ode_core.replay import recorded
from ode_core.samples import SampleProblem
from ode_solvers.explicit import RungeKutta
from ode_solvers.gradients.rewind import Pass, Rewind, refuse_outside_of_torch, solve_recorded
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row
from ode_solvers.gradients.sample_rewind import solve_samples_recorded
from ode_solvers.gradients.tape import Budget
from ode_solvers.gradients.transposed import pull_back

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core import Plan
    from ode_core.problem import Problem
    from ode_core.protocols import VectorField
    from ode_core.replay import Again
    from ode_solvers.gradients.tape import State

    Grads = list[Tensor | None]


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
    discrete_times: bool = True

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
        return _Forgetful(again)

    def _pulled_back(
        self, index: int, state: State, after: Tensor | None, later: Grads, now: Pass
    ) -> Grads | None:
        """Return a step's gradients; those of an explicit Runge-Kutta step by its table."""
        solver, (t0, t1, _) = self.plan.solver, self.tape.span(index)
        if not (isinstance(solver, RungeKutta) and self.only_at_end(index)):
            return super()._pulled_back(index, state, after, later, now)
        grad = self.at_end(index, later, now)
        if grad is None:
            return [None]
        return [pull_back(solver, now.again, (t0, t1), state.y, grad, now.pulls)]


class _Forgetful:
    """A field that keeps the graph of the last evaluation of a step alone.

    That is the first to be differentiated. Which one it is is known from the step before: it had so
    many, where it has others the graph is made again as for any other evaluation.
    """

    def __init__(self, again: Again) -> None:
        self._again = again
        self._made, self._last = 0, -1

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        """Return what the field returns, differentiable once."""
        self._made += 1
        slope: Tensor = _Stage.apply(self, self._made == self._last, t, y, *self._again.tensors)
        return slope

    def recorded(self, t: Any, y: Tensor, *, timed: bool) -> tuple[Tensor, ...]:
        """Return a slope with a graph, and its leaves: the time if asked for, and the state."""
        if not timed:
            return recorded(partial(self._again, t), y)
        t = t.detach().requires_grad_()
        slope, leaf = recorded(partial(self._again, t), y)
        return slope, t, leaf

    def forgotten(self, t: Any, y: Tensor) -> Tensor:
        """Return a slope without a graph; f may return a tensor of its own, this is an alias."""
        return self._again(t, y).detach()

    def pulled(
        self, slope: Tensor, leaves: Sequence[Tensor], grad: Tensor
    ) -> Sequence[Tensor | None]:
        """Return the gradients of a slope's leaves and tensors from its own."""
        # A step is over when its first evaluation is differentiated.
        if self._made:
            self._made, self._last = 0, self._made
        inputs = (*leaves, *self._again.tensors)
        if not slope.requires_grad:
            return (None,) * len(inputs)
        return torch.autograd.grad(slope, inputs, grad, allow_unused=True)


class _Stage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, field: _Forgetful, last: bool, t: Any, y: Tensor, *tensors: Tensor
    ) -> Tensor:
        del tensors
        ctx.timed = isinstance(t, Tensor) and t.requires_grad
        ctx.field, ctx.t = field, t.detach() if ctx.timed else t
        ctx.save_for_backward(y)
        ctx.recorded = field.recorded(t, y, timed=ctx.timed) if last else None
        return ctx.recorded[0].detach() if last else field.forgotten(t, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "gradient='symplectic' offers no second derivatives (create_graph=True); take "
                "gradient='direct' or 'checkpoint'"
            )
        made = ctx.recorded or ctx.field.recorded(ctx.t, *ctx.saved_tensors, timed=ctx.timed)
        ctx.recorded, (slope, *leaves) = None, made
        return *(None,) * (3 - ctx.timed), *ctx.field.pulled(slope, leaves, grad)
