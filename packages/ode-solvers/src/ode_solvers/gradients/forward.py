"""Forward sensitivities: derivatives of the state carried along with it, for few parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ode_core import ArgumentError
from ode_core.attach import attach_all, differentiable, refuse_transforms
from ode_core.capture import Watched
from ode_core.dtypes import real
from ode_core.loops.outputs import forward
from ode_core.replay import Replay
from ode_solvers.gradients.basis import Basis
from ode_solvers.gradients.leaves import leaves_of, with_leaves
from ode_solvers.gradients.rewind import (
    begun_with,
    refuse_outside_of_torch,
    shifts_of,
)
from ode_solvers.gradients.tangents import Tangents

if TYPE_CHECKING:
    from ode_core import Plan
    from ode_core.attach import Gradients
    from ode_core.problem import Problem
    from ode_core.solution import Trajectory


@dataclass(frozen=True)
class Forward:
    """Exact gradients of the discrete solve by forward differentiation, for few parameters.

    Every accepted step is made again with the derivatives of its start with respect to each entry
    of y0, of the tensors that f depends on and of `t` where these require gradients, all of them at
    once. The backward pass is one contraction, and evaluates nothing. Memory: one state for each
    parameter and each output, whatever the number of steps; work: another forward solve, of as many
    states as there are parameters. That pays off for some tens of them and many steps.

    `limit` is the number of parameter entries up to which this is done. `chunk` is how many go
    through a step at once, by default all.

    Raises ArgumentError for numbers that are not positive. Source: Hairer, Nørsett, Wanner I,
    section I.14; Rackauckas et al., arXiv:1812.01892, for where it pays off.
    """

    limit: int = 100
    chunk: int | None = None
    name: str = "forward"
    exact: bool = True
    discrete_times: bool = True

    def __post_init__(self) -> None:
        for word, number in (("limit", self.limit), ("chunk", self.chunk)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ArgumentError(f"Forward takes {word}=... from 1; got {number!r:.60}")

    def check(self, problem: Problem, plan: Plan) -> None:
        """Refuse a solver whose steps torch does not see, and a start of too many entries."""
        refuse_outside_of_torch(plan)
        if torch.is_grad_enabled():
            Basis(self.limit).meet(_start(problem))

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve, carry derivatives along, and attach their contraction as the backward pass."""
        if not torch.is_grad_enabled():
            return forward(problem, plan)
        refuse_transforms(self.name, problem.y0)
        replay, watched = Replay(problem.field, problem.y0.device), Watched(problem.field)
        basis = Basis(self.limit)
        basis.meet((*_start(problem), *shifts_of(problem), *begun_with(plan)))
        tangents = Tangents(problem, plan, watched, replay, basis, self.chunk)
        detached = replace(problem, y0=problem.y0.detach(), clock=None)
        with torch.no_grad():
            trajectory = forward(detached, plan, on_rows=tangents.take, watched=watched)
        replay.settle()
        if trajectory.status.failed or not differentiable(problem.y0, basis.tensors):
            return trajectory
        # Where a solve goes on from this one with its carry, gradients come back through that, too.
        end = trajectory.end
        left = [] if plan.solver.one_step or end is None else leaves_of(end.carry)
        outputs = (trajectory.ys, *(x.clone() for x in left))
        back = _Contraction(basis, tangents.gathered(len(trajectory.ys), left))
        given = tuple(x for x in basis.tensors if x is not problem.y0)
        trajectory.ys, *carried = attach_all(self.name, back, outputs, problem.y0, given)
        if end is not None and carried:
            trajectory.end = end._replace(carry=with_leaves(end.carry, carried))
        return trajectory


def _start(problem: Problem) -> tuple[Tensor, ...]:
    return (problem.y0,) if problem.y0.requires_grad else ()


@dataclass(frozen=True, eq=False)
class _Contraction:
    """The backward pass; `held` are the derivatives of each output, `[P, ...]`, like the output."""

    basis: Basis
    held: tuple[Tensor, ...]

    def __call__(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        """Return the gradients of `y0` and `tensors` from those of the outputs."""
        count = self.basis.count
        total = self.held[0].new_zeros(count, dtype=real(self.held[0].dtype))
        for grad, tangent in zip(grads, self.held, strict=True):
            products = tangent.reshape(count, -1) @ grad.reshape(-1).conj()
            total = total + products.real.to(total.dtype)
        found = self.basis.gradients(total)
        return found.get(id(y0)), [found.get(id(x)) for x in tensors]
