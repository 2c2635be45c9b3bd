"""Going back through a solve from its end alone: every step taken back by its solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from ode_core import SolveError
from ode_core.clock import Moving
from ode_core.interpolation import interpolant
from ode_core.loops.collected import needs_interpolant, output_at
from ode_core.loops.march import Accepted
from ode_solvers.gradients.pulls import Pulls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Solver
    from ode_core.problem import Problem
    from ode_core.protocols import Carry
    from ode_core.replay import Again, Replay


class Point(NamedTuple):
    """A state and the carry there, or their gradients; the carry's is None where none come."""

    y: Any
    carry: Carry


class Taken(NamedTuple):
    """What is kept of an accepted step: its times, and where something happened.

    `end` is the state and the carry at t1 where the next step does not go on from them: at the end
    of the solve and before a jump. `fresh` says that the solver's `init` made the carry at t0.
    """

    times: tuple[float, float, float]
    outputs: tuple[int, ...]
    end: Point | None
    fresh: bool


@dataclass(frozen=True)
class Unwind:
    """The backward pass: every step taken back and differentiated, from the last to the first."""

    problem: Problem
    solver: Solver
    steps: tuple[Taken, ...]
    replay: Replay

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the gradients of `y0` and `tensors` from those of the states `ys`."""
        field, calls = self.problem.field, self.problem.field.calls
        with self.replay.again(tensors) as again, torch.no_grad():
            problem, solver = self._timed(again)
            walk = _Walk(problem, solver, again, ys, grad_ys)
            first = walk.back(self.steps, y0)
        self.problem.stats.backward_f_calls += field.calls - calls
        field.forget()
        grad_y0 = grad_ys[: self.problem.times.count(self.problem.times[0])].sum(0)
        return grad_y0 if first is None else grad_y0 + first, walk.pulls.totals

    def _timed(self, again: Again) -> tuple[Problem, Any]:
        """Return what differentiates steps whose ends move with the last tensor of the replay."""
        clock = self.problem.clock
        if clock is None:
            return self.problem, self.solver
        clock = replace(clock, shifts=again.tensors[-1])
        return replace(self.problem, clock=clock), Moving(self.solver, clock)


class _Walk:
    """One backward pass; `pulls` sums the gradients of the field's tensors."""

    def __init__(
        self, problem: Problem, solver: Any, field: Again, ys: Tensor, grad_ys: Tensor
    ) -> None:
        self._problem, self._solver, self._field = problem, solver, field
        self._ys, self._grad_ys = ys, grad_ys
        self.pulls = Pulls(field.tensors)

    def back(self, steps: tuple[Taken, ...], y0: Tensor) -> Tensor | None:
        """Take all steps back and return the gradient of the state before the first, `y0`."""
        start, grads = Point(y0, None), Point(None, None)
        own = hasattr(type(self._solver), "pull_back")
        for index in range(len(steps) - 1, -1, -1):
            taken, known = steps[index], None if index else y0
            end = taken.end or start
            pulled = own and all(self._problem.times[k] == taken.times[1] for k in taken.outputs)
            step_back = self._pulled_back if pulled else self._made_again
            start, grads = step_back(taken, end, grads, known)
        grad: Tensor | None = grads.y
        return grad

    def _pulled_back(
        self, taken: Taken, end: Point, later: Point, y0: Tensor | None
    ) -> tuple[Point, Point]:
        """Return a step's start, and its gradients, as the solver itself pulls them back."""
        t0, t1, _ = taken.times
        for k in taken.outputs:
            self._compare(t1, end.y, self._ys[k])
        grad_y = torch.zeros_like(end.y) if later.y is None else later.y
        for k in taken.outputs:
            grad_y = grad_y + self._grad_ys[k]
        grad_carry = later.carry
        if grad_carry is None:
            grad_carry = pytree.tree_map(torch.zeros_like, end.carry)
        start, grads = self._solver.pull_back(
            self._field, (t0, t1), end, (grad_y, grad_carry), self.pulls
        )
        start, grads = Point(*start), Point(*grads)
        if y0 is not None:
            self._compare(t0, start.y, y0)
            start = start._replace(y=y0)
        return start, self._begun(t0, start, grads) if taken.fresh else grads

    def _begun(self, t: float, start: Point, grads: Point) -> Point:
        """Return the gradients before the solver's `init`."""
        with torch.enable_grad():
            y = start.y.detach().requires_grad_()
            carry = self._solver.init(self._field, t, y)
        self._compare_carry(t, start, carry)
        pairs = zip(pytree.tree_leaves(carry), pytree.tree_leaves(grads.carry), strict=True)
        grad = grads.y
        for value, g in pairs:
            grad = grad + self.pulls(value, y, g)
        return Point(grad, None)

    def _made_again(
        self, taken: Taken, end: Point, later: Point, y0: Tensor | None
    ) -> tuple[Point, Point]:
        """Return a step's start, and its gradients from the graph of the step made again."""
        t0, t1, _ = taken.times
        start = Point(*self._solver.reverse(self._field, t0, t1, *end))
        if y0 is not None:
            self._compare(t0, start.y, y0)
            start = start._replace(y=y0)
        with torch.enable_grad():
            y = start.y.detach().requires_grad_()
            leaves: list[Tensor] = []
            if taken.fresh:
                carry = self._solver.init(self._field, t0, y)
                self._compare_carry(t0, start, carry)
            else:
                leaves, spec = pytree.tree_flatten(start.carry)
                leaves = [leaf.detach().requires_grad_() for leaf in leaves]
                carry = pytree.tree_unflatten(leaves, spec)
            step = self._solver.step(self._field, t0, t1, y, carry, None)
            reached, given = [step.y], [later.y]
            if later.carry is not None:
                reached += pytree.tree_leaves(step.carry)
                given += pytree.tree_leaves(later.carry)
            states = self._outputs(taken, Accepted(*taken.times, y, carry, step, taken.fresh))
        for k, state in zip(taken.outputs, states, strict=True):
            self._compare(self._problem.times[k], state.detach(), self._ys[k])
            reached.append(state)
            given.append(self._grad_ys[k])
        pairs = zip(reached, given, strict=True)
        live = [(x, g) for x, g in pairs if g is not None and x.requires_grad]
        inner, inputs = 1 + len(leaves), [y, *leaves, *self.pulls.tensors]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if live:
            ends, grads = zip(*live, strict=True)
            found = torch.autograd.grad(ends, inputs, grads, allow_unused=True)
        self.pulls.add(found[inner:])
        if taken.fresh:
            return start, Point(found[0], None)
        given = [
            torch.zeros_like(leaf) if g is None else g
            for leaf, g in zip(leaves, found[1:inner], strict=True)
        ]
        return start, Point(found[0], pytree.tree_unflatten(given, spec))

    def _outputs(self, taken: Taken, accepted: Accepted) -> list[Tensor]:
        at = None
        if needs_interpolant(self._problem, accepted, taken.outputs):
            at = interpolant(self._solver, self._field, accepted.span, accepted.y0, accepted.step)
        return [output_at(self._problem, k, accepted, at) for k in taken.outputs]

    def _compare(self, t: float, rebuilt: Tensor, true: Tensor) -> None:
        size = true.abs().max().item()
        self._judge(t, (rebuilt - true).abs().max().item(), size)

    def _compare_carry(self, t: float, rebuilt: Point, fresh: Carry) -> None:
        pairs = zip(pytree.tree_leaves(rebuilt.carry), pytree.tree_leaves(fresh), strict=True)
        size = rebuilt.y.abs().max().item()
        for a, b in pairs:
            away = (a - b.detach()).abs().max().item()
            self._judge(t, away, max(size, b.detach().abs().max().item()))

    def _judge(self, t: float, away: float, size: float) -> None:
        root = torch.finfo(self._problem.y0.dtype).eps ** 0.5
        if not away <= root * (size or 1.0):
            raise SolveError(
                f"{self._solver.name} could not be taken back: at t = {t:.6g} the rebuilt state is "
                f"{away / (size or 1.0):.3g} of its size away from the true one, so that its "
                "gradient would be wrong; take gradient='checkpoint', float64 or a shorter solve"
            )
