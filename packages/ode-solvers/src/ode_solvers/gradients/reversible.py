"""Steps taken back one by one: exact gradients from the end of the solve alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch.utils import _pytree as pytree

from ode_core import ArgumentError, SolveError, UnsupportedError, solvers
from ode_core.attach import attach, refuse_transforms
from ode_core.capture import Watched
from ode_core.interpolation import interpolant
from ode_core.loops.march import Accepted
from ode_core.loops.outputs import forward, state_at
from ode_core.replay import Replay
from ode_core.samples import SampleProblem
from ode_solvers.coupled import Coupled
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row
from ode_solvers.gradients.sample_reversed import solve_samples_reversed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan, Solver
    from ode_core.problem import Problem
    from ode_core.protocols import Carry
    from ode_core.replay import Again

    Gradients = list[Tensor | None]


class _Taken(NamedTuple):
    """What is kept of an accepted step: its times, and where something happened.

    `end` is the state and the carry at t1 where the next step does not go on from them: at the end
    of the solve and before a jump. `fresh` says that the solver's `init` made the carry at t0.
    """

    times: tuple[float, float, float]
    outputs: tuple[int, ...]
    end: tuple[Tensor, Carry] | None
    fresh: bool


@dataclass(frozen=True)
class ReversibleGradient:
    """Exact gradients of the discrete solve from its end alone, by a solver that steps backwards.

    The backward pass rebuilds the state and the carry before each step with the solver's `reverse`
    and differentiates the step made again. Memory: two states, and the times of the steps. The
    rebuilt start and outputs are compared with the true ones: SolveError is raised where they
    differ by more than the root of the dtype's rounding, as they do where f damps the state.

    Source: Zhuang et al., MALI, ICLR 2021; McCallum, Foster, arXiv:2410.11648 (2024).
    """

    name: str = "reversible"
    exact: bool = True
    per_sample: bool = True

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse a solver that cannot take a step back, and what has no row of its own."""
        if isinstance(problem, SampleProblem):
            refuse_what_has_no_row(problem, self.name)
        if not hasattr(plan.solver, "reverse"):
            raise UnsupportedError(
                f"gradient='reversible' takes a solver that can take its steps back, and "
                f"{plan.solver.name} cannot: take solver='alf' or 'reversible_heun', or "
                f"solver=ode_solvers.Reversible('dopri5')"
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
        steps: list[_Taken] = []
        held: list[tuple[Tensor, Carry]] = []

        def keep(accepted: Accepted, outputs: list[int]) -> None:
            if accepted.fresh and steps:
                steps[-1] = steps[-1]._replace(end=held[0])
            held[:] = [(accepted.step.y, accepted.step.carry)]
            times = (accepted.t0, accepted.t1, accepted.until)
            steps.append(_Taken(times, tuple(outputs), None, accepted.fresh))

        detached = replace(problem, y0=problem.y0.detach())
        with torch.no_grad():
            trajectory = forward(detached, plan, on_step=keep, watched=watched)
        replay.settle()
        if trajectory.status.failed:
            return trajectory
        if steps:
            steps[-1] = steps[-1]._replace(end=held[0])
        placed = problem.at(trajectory.times, trajectory.wanted)
        pull = _Back(placed, plan.solver, tuple(steps), replay)
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, watched.tensors)
        return trajectory


@dataclass(frozen=True)
class _Back:
    """The backward pass: every step taken back and made again, from the last to the first."""

    problem: Problem
    solver: Solver
    steps: tuple[_Taken, ...]
    replay: Replay

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        field = self.problem.field
        calls = field.calls
        with self.replay.again(tensors) as again:
            pulled = self._walk(again, grad_ys, ys, y0)
        self.problem.stats.backward_f_calls += field.calls - calls
        field.forget()
        return pulled

    def _walk(
        self, again: Again, grad_ys: Tensor, ys: Tensor, y0: Tensor
    ) -> tuple[Tensor, Gradients]:
        solver: Any = self.solver
        tensors = again.tensors
        totals: Gradients = [None] * len(tensors)
        later: Gradients = []
        y: Tensor = y0
        carry: Carry = None
        for index in range(len(self.steps) - 1, -1, -1):
            taken = self.steps[index]
            t0, t1, _ = taken.times
            y1, carry1 = (y, carry) if taken.end is None else taken.end
            with torch.no_grad():
                y, carry = solver.reverse(again, t0, t1, y1, carry1)
            if index == 0:
                self._compare(t0, y, y0)
                y = y0
            later = self._made(taken, (y, carry), later, (grad_ys, ys), (again, totals))
        start = self.problem.times.count(self.problem.times[0])
        grad_y0 = grad_ys[:start].sum(0)
        if later and later[0] is not None:
            grad_y0 = grad_y0 + later[0]
        return grad_y0, totals

    def _made(
        self,
        taken: _Taken,
        rebuilt: tuple[Tensor, Carry],
        later: Gradients,
        known: tuple[Tensor, Tensor],
        into: tuple[Again, Gradients],
    ) -> Gradients:
        """Add one step's gradients to the totals and return those of the state it starts from.

        `later` is what the steps after it say about its state and, where they go on with it, carry.
        """
        (field, totals), (t0, t1, _), (grad_ys, ys) = into, taken.times, known
        tensors = field.tensors
        with torch.enable_grad():
            y = rebuilt[0].detach().requires_grad_()
            leaves: list[Tensor] = []
            if taken.fresh:
                carry = self.solver.init(field, t0, y)
                self._compare_carry(t0, rebuilt, carry)
            else:
                leaves, spec = pytree.tree_flatten(rebuilt[1])
                leaves = [leaf.detach().requires_grad_() for leaf in leaves]
                carry = pytree.tree_unflatten(leaves, spec)
            step = self.solver.step(field, t0, t1, y, carry, None)
            reached = [step.y, *(pytree.tree_leaves(step.carry) if len(later) > 1 else [])]
            pairs = [(o, g) for o, g in zip(reached, later, strict=False) if g is not None]
            states: list[Tensor] = []
            if taken.outputs:
                accepted = Accepted(*taken.times, y, carry, step, taken.fresh)
                states = self._outputs(field, taken, accepted)
        for index, state in zip(taken.outputs, states, strict=True):
            self._compare(self.problem.times[index], state.detach(), ys[index])
            pairs.append((state, grad_ys[index]))
        live = [(o, g) for o, g in pairs if o.requires_grad]
        inner = 1 + len(leaves)
        if not live:
            return [None] * inner
        found = torch.autograd.grad(
            [o for o, _ in live], [y, *leaves, *tensors], [g for _, g in live], allow_unused=True
        )
        for place, grad in enumerate(found[inner:]):
            total = totals[place]
            if grad is not None:
                # The first one is autograd's own and may be shared.
                totals[place] = grad.clone() if total is None else total.add_(grad)
        return list(found[:inner])

    def _outputs(self, field: Again, taken: _Taken, accepted: Accepted) -> list[Tensor]:
        times = [self.problem.times[index] for index in taken.outputs]
        at = None
        if any(time != accepted.t1 for time in times):
            at = interpolant(self.solver, field, accepted.span, accepted.y0, accepted.step)
        return [state_at(accepted, time, at) for time in times]

    def _compare(self, t: float, rebuilt: Tensor, true: Tensor) -> None:
        size = true.abs().max().item()
        self._judge(t, (rebuilt - true).abs().max().item(), size)

    def _compare_carry(self, t: float, rebuilt: tuple[Tensor, Carry], fresh: Carry) -> None:
        pairs = zip(pytree.tree_leaves(rebuilt[1]), pytree.tree_leaves(fresh), strict=True)
        size = rebuilt[0].abs().max().item()
        for a, b in pairs:
            away = (a - b.detach()).abs().max().item()
            self._judge(t, away, max(size, b.detach().abs().max().item()))

    def _judge(self, t: float, away: float, size: float) -> None:
        root = torch.finfo(self.problem.y0.dtype).eps ** 0.5
        if not away <= root * (size or 1.0):
            raise SolveError(
                f"{self.solver.name} could not be taken back: at t = {t:.6g} the rebuilt state is "
                f"{away / (size or 1.0):.3g} of its size away from the true one, so that its "
                "gradient would be wrong; take gradient='checkpoint', float64 or a shorter solve"
            )


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
