"""Accepted states kept, each step replayed on its own in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ode_core import ArgumentError, UnsupportedError
from ode_core.replay import twin
from ode_core.samples import SampleProblem
from ode_solvers.gradients.leaves import leaves_of, with_leaves
from ode_solvers.gradients.rewind import (
    Rewind,
    refuse_outside_of_torch,
    solve_recorded,
)
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row
from ode_solvers.gradients.sample_rewind import solve_samples_recorded
from ode_solvers.gradients.tape import Budget

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core import Plan
    from ode_core.attach import Gradients
    from ode_core.problem import Problem
    from ode_core.protocols import VectorField


@dataclass(frozen=True)
class Checkpoint:
    """Exact gradients of the discrete solve from one stored state a step.

    The forward solve records no graph; the backward pass replays each accepted step, latest first,
    without the search for its size. A solver that cannot be started from a state alone has its
    carry stored, and differentiated, too. Memory: one state and 8 bytes a step, and one step's
    graph; work: one more forward solve.

    `states`, or `bytes`, limits what is stored at any time, in either pass, to so many states. The
    states in between are then made again, in the order that costs least: with s states, steps are
    repeated at most r times where (s + r)! / (s! r!) is at least the number of steps.

    A second derivative replays the whole solve with a graph: it takes the memory of `direct`.

    Source: Zhuang et al., Adaptive checkpoint adjoint, ICML 2020; Griewank and Walther, Algorithm
    799: revolve, ACM TOMS 26 (2000).
    """

    states: int | None = None
    bytes: int | None = None
    name: str = "checkpoint"
    exact: bool = True
    per_sample: bool = True
    discrete_times: bool = True

    def __post_init__(self) -> None:
        if self.states is not None and self.bytes is not None:
            raise ArgumentError("Checkpoint takes states=... or bytes=...; got both")
        given = self.bytes if self.states is None else self.states
        if given is not None and given < 1:
            raise ArgumentError(
                f"Checkpoint keeps at least one state: give states=... or bytes=... from 1; got "
                f"{given}"
            )

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse a solver whose steps torch does not see, and what has no row of its own."""
        refuse_outside_of_torch(plan)
        if not isinstance(problem, SampleProblem):
            return
        refuse_what_has_no_row(problem, self.name)
        if self._budget != Budget():
            raise UnsupportedError(
                "Checkpoint keeps to a budget with shared steps only; drop states=... or "
                "bytes=..., or stepping='per_sample'"
            )

    def solve(self, problem: Problem | SampleProblem, plan: Plan) -> Any:
        """Solve without a graph and attach the replay as the backward pass."""
        if isinstance(problem, SampleProblem):
            return solve_samples_recorded(problem, plan, self.name, _Steps.evaluated)
        return solve_recorded(problem, plan, self.name, self._budget, _Steps)

    @property
    def _budget(self) -> Budget:
        return Budget(self.states, self.bytes)


class _Steps(Rewind):
    """The backward pass of one solve, with one step's graph at a time."""

    def twice(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        """Return the same with a graph of their own, from the graph of the whole solve."""
        captured, begun = self.parts(tensors)
        still = self.problem.times.count(self.problem.times[0])
        with self.replay.again(captured, twice=True) as again, torch.enable_grad():
            first, *carried = (twin(x, twice=True) for x in (y0, *begun))
            states, carry = self.timed(again)._whole(again, first, carried)
            reached, pulled = [first] * still + states + carry, [*grads[0], *grads[1:]]
            live = [(x, g) for x, g in zip(reached, pulled, strict=True) if x.requires_grad]
            found = torch.autograd.grad(
                [x for x, _ in live],
                [first, *again.tensors, *carried],
                [g for _, g in live],
                create_graph=True,
                allow_unused=True,
            )
        return found[0], found[1:]

    def _whole(
        self, f: VectorField, y: Tensor, begun: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the states of all outputs after the start, and the carry's at the end."""
        start, states = self.plan.start, []
        goes_on = start is not None and not self.tape.fresh(0)
        carry = with_leaves(start.carry, begun) if goes_on and start is not None else None
        for index in range(len(self.tape)):
            carry = self.begin(f, index, y, None if self.tape.fresh(index) else carry)
            step = self.step(f, index, y, carry)
            states += self.outputs(f, index, y, carry, step)
            y, carry = step.y, step.carry
        return states, [] if self.plan.solver.one_step else leaves_of(carry)
