"""Accepted states kept, each step replayed on its own in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from ode_core import UnsupportedError
from ode_core.attach import attach
from ode_core.capture import Watched
from ode_core.interpolation import interpolant
from ode_core.loops.march import Accepted
from ode_core.loops.outputs import forward, state_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan, Step
    from ode_core.problem import Problem
    from ode_core.protocols import Carry, Solver
    from ode_core.solution import Trajectory

    Gradients = list[Tensor | None]


@dataclass(frozen=True)
class _Kept:
    """What is kept of an accepted step: times, the states at both ends, outputs within it.

    `carry` is None where the solver's `init` makes it from the state.

    `ends` are t0, t1 and the time up to which the step answers. The state at the end is the next
    step's first, so it is one tensor a step.
    """

    ends: tuple[float, float, float]
    states: tuple[Tensor, Tensor]
    carry: Carry
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Exact gradients of the discrete solve from one stored state a step.

    The forward solve records no graph; the backward pass replays each accepted step, latest first,
    without the search for its size. A solver that cannot be started from a state alone has its
    carry stored, and differentiated, too. Memory: one state a step and one step's graph; work: one
    more forward solve.

    Source: Zhuang et al., Adaptive checkpoint adjoint, ICML 2020.
    """

    name: str = "checkpoint"
    exact: bool = True

    def check(self, problem: Problem, plan: Plan) -> None:
        """Refuse a solver whose steps torch does not see."""
        del problem
        if not getattr(plan.solver, "differentiable", True):
            raise UnsupportedError(
                f"{plan.solver.name} takes its steps outside of torch, so none can be replayed; "
                "take another solver"
            )

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve without a graph and attach the replay as the backward pass."""
        if not torch.is_grad_enabled():
            return forward(problem, plan)
        watched = Watched(problem.field)
        steps: list[_Kept] = []
        one_step = plan.solver.one_step

        def keep(accepted: Accepted, outputs: list[int]) -> None:
            carry = None if one_step or accepted.fresh else accepted.carry
            ends = (accepted.t0, accepted.t1, accepted.until)
            states = (accepted.y0, accepted.step.y)
            steps.append(_Kept(ends, states, carry, tuple(outputs)))

        detached = replace(problem, y0=problem.y0.detach())
        with torch.no_grad():
            trajectory = forward(detached, plan, on_step=keep, watched=watched)
        if trajectory.status.failed:
            return trajectory
        placed = problem.at(trajectory.times, trajectory.wanted)
        pull = _Replay(placed, plan.solver, tuple(steps))
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, watched.tensors)
        return trajectory


@dataclass(frozen=True)
class _Replay:
    """The backward pass: every kept step again, from the last to the first."""

    problem: Problem
    solver: Solver
    steps: tuple[_Kept, ...]

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        del ys, y0
        field = self.problem.field
        calls = field.calls
        totals: Gradients = [None] * len(tensors)
        # What the later steps say about the state, and the carry, that this one ends with.
        later: Gradients = []
        for kept in reversed(self.steps):
            later = self._pull_step(kept, later, grad_ys, tensors, totals)
        start = self.problem.times.count(self.problem.times[0])
        grad_y0 = grad_ys[:start].sum(0)
        if later and later[0] is not None:
            grad_y0 = grad_y0 + later[0]
        self.problem.stats.backward_f_calls += field.calls - calls
        field.forget()
        return grad_y0, totals

    def _pull_step(
        self,
        kept: _Kept,
        later: Gradients,
        grad_ys: Tensor,
        tensors: tuple[Tensor, ...],
        totals: Gradients,
    ) -> Gradients:
        """Add one step's gradients to the totals and return those of the state it starts from."""
        with torch.enable_grad():
            y = kept.states[0].detach().requires_grad_()
            carry, leaves = self._carry(kept, y)
            step = self._again(kept, y, carry)
            reached = [step.y]
            if len(later) > 1:
                reached += pytree.tree_leaves(step.carry)
            pulled = later if later else [None] * len(reached)
            outputs, grads = _paired(reached, pulled)
            states = self._outputs(kept, y, carry, step)
            outputs += states
            grads += [grad_ys[index] for index in kept.outputs]
            live = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
        inner = 1 + len(leaves)
        if not live:
            return [None] * inner
        found = torch.autograd.grad(
            [o for o, _ in live], [y, *leaves, *tensors], [g for _, g in live], allow_unused=True
        )
        for index, grad in enumerate(found[inner:]):
            if grad is not None:
                known = totals[index]
                totals[index] = grad if known is None else known + grad
        return list(found[:inner])

    def _carry(self, kept: _Kept, y: Tensor) -> tuple[Any, list[Tensor]]:
        if kept.carry is None:
            return self.solver.init(self.problem.field, kept.ends[0], y), []
        leaves, spec = pytree.tree_flatten(kept.carry)
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        return pytree.tree_unflatten(leaves, spec), leaves

    def _again(self, kept: _Kept, y: Tensor, carry: Carry) -> Step:
        field, (t0, t1, _) = self.problem.field, kept.ends
        again = getattr(self.solver, "replay", None)
        if again is not None and kept.carry is None and self.solver.one_step:
            step: Step = again(field, t0, t1, y, carry, kept.states[1])
            return step
        return self.solver.step(field, t0, t1, y, carry, None)

    def _outputs(self, kept: _Kept, y: Tensor, carry: Carry, step: Step) -> list[Tensor]:
        times = [self.problem.times[index] for index in kept.outputs]
        accepted = Accepted(*kept.ends, y, carry, step, fresh=kept.carry is None)
        at = None
        if any(time != accepted.t1 for time in times):
            at = interpolant(self.solver, self.problem.field, kept.ends[:2], y, step)
        return [state_at(accepted, time, at) for time in times]


def _paired(
    reached: Sequence[Tensor], pulled: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [(o, g) for o, g in zip(reached, pulled, strict=True) if g is not None]
    return [o for o, _ in pairs], [g for _, g in pairs]
