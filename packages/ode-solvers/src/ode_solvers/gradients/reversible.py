"""Steps taken back one by one: exact gradients from the end of the solve alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import torch

from ode_core import ArgumentError, UnsupportedError, solvers
from ode_core.attach import attach, refuse_transforms
from ode_core.capture import Watched
from ode_core.loops.outputs import forward
from ode_core.replay import Replay
from ode_core.samples import SampleProblem
from ode_solvers.coupled import Coupled
from ode_solvers.gradients.rewind import shifts_of
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row
from ode_solvers.gradients.sample_reversed import solve_samples_reversed
from ode_solvers.gradients.unwind import Point, Taken, Unwind

if TYPE_CHECKING:
    from ode_core import Plan, Solver
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem


@dataclass(frozen=True)
class ReversibleGradient:
    """Exact gradients of the discrete solve from its end alone, by a solver that steps backwards.

    The backward pass rebuilds the state and the carry before each step, with their gradients, by
    the solver's `pull_back`; a step with outputs inside it, and any step of a solver that has
    `reverse` alone, is taken back and made again. Memory: two states, and the times of the steps.
    The rebuilt start and outputs are compared with the true ones: SolveError is raised where they
    differ by more than the root of the dtype's rounding, as they do where f damps the state.

    Source: Zhuang et al., MALI, ICLR 2021; McCallum, Foster, arXiv:2410.11648 (2024).
    """

    name: str = "reversible"
    exact: bool = True
    per_sample: bool = True
    discrete_times: bool = True

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse a solver that cannot take a step back, and what has no row of its own."""
        if isinstance(problem, SampleProblem):
            refuse_what_has_no_row(problem, self.name)
        if not hasattr(plan.solver, "reverse"):
            raise UnsupportedError(
                f"gradient='reversible' takes a solver that can take its steps back, and "
                f"{plan.solver.name} cannot: take solver='alf', 'reversible_heun' or "
                "'reversible_dopri5', or ode_solvers.Reversible(...) of another"
            )

    def solve(self, problem: Problem | SampleProblem, plan: Plan) -> Any:
        """Solve without a graph and attach the steps backwards as the backward pass."""
        if isinstance(problem, SampleProblem):
            return solve_samples_reversed(problem, plan, self.name)
        if not torch.is_grad_enabled():
            return forward(problem, plan)
        refuse_transforms(self.name, problem.y0)
        replay = Replay(problem.field, problem.y0.device)
        watched = Watched(problem.field)
        steps: list[Taken] = []
        held: list[Point] = []

        def keep(accepted: Accepted, outputs: list[int]) -> None:
            if accepted.fresh and steps:
                steps[-1] = steps[-1]._replace(end=held[0])
            held[:] = [Point(accepted.step.y, accepted.step.carry)]
            times = (accepted.t0, accepted.t1, accepted.until)
            steps.append(Taken(times, tuple(outputs), None, accepted.fresh))

        detached = replace(problem, y0=problem.y0.detach(), clock=None)
        with torch.no_grad():
            trajectory = forward(detached, plan, on_step=keep, watched=watched)
        replay.settle()
        if trajectory.status.failed:
            return trajectory
        if steps:
            steps[-1] = steps[-1]._replace(end=held[0])
        placed = problem.at(trajectory.times, trajectory.wanted)
        pull = Unwind(placed, plan.solver, tuple(steps), replay)
        tensors = (*watched.tensors, *shifts_of(problem))
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, tensors)
        return trajectory


@overload
def reversible() -> ReversibleGradient: ...


@overload
def reversible(solver: Solver | str, coupling: float = 0.999) -> Coupled: ...


def reversible(solver: Solver | str | None = None, coupling: float | None = None) -> Any:
    """Return the gradient method, or with a solver that solver made reversible.

    `gradient=Reversible()` is "reversible"; `solver=Reversible("dopri5")`, a registered name or an
    explicit Solver, is one whose steps can be taken back, for that gradient and at twice the
    evaluations. `coupling`, in (0, 1], holds the two solutions together, default 0.999.

    Raises ArgumentError for a coupling without a solver, and for a solver that cannot be coupled.
    """
    if solver is None:
        if coupling is not None:
            raise ArgumentError(
                "Reversible() without a solver is the gradient method, on which coupling has no "
                "effect; give Reversible('dopri5', coupling=...) a solver"
            )
        return ReversibleGradient()
    base = solvers.create(solver) if isinstance(solver, str) else solver
    return Coupled(base, 0.999 if coupling is None else coupling)


Reversible = reversible
