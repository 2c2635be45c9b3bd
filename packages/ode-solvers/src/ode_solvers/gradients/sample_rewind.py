"""Going back through a recorded solve with per-sample steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ode_core.attach import attach_all, differentiable
from ode_core.capture import Watched
from ode_core.interpolation import interpolant
from ode_core.loops.sample_outputs import Due, SampleTrajectory, forward_samples
from ode_core.rows import where
from ode_core.samples import Stops
from ode_solvers.gradients.leaves import leaves_of, with_leaves
from ode_solvers.gradients.pulls import sum_of
from ode_solvers.gradients.sample_forward import solved_samples

if TYPE_CHECKING:
    from ode_core import Plan, Step
    from ode_core.loops.sample_march import SampleStep
    from ode_core.protocols import Carry, VectorField
    from ode_core.replay import Again, Replay
    from ode_core.samples import SampleProblem

    Grads = list[Tensor | None]


@dataclass(frozen=True, eq=False)
class Taken:
    """An attempted step of the samples `rows`; `t1` is `t0` in rows that were not accepted.

    `jumped` are the rows that go on from `until` with a carry made anew.
    """

    rows: Tensor
    t0: Tensor
    t1: Tensor
    until: Tensor
    jumped: Tensor
    dues: list[Due]

    @classmethod
    def of(cls, step: SampleStep, dues: list[Due], moved: Tensor) -> Taken:
        """Return a step in which the other rows than those of the mask stand still."""
        t1 = torch.where(moved, step.t1, step.t0)
        return cls(step.rows, step.t0, t1, step.until, moved & (step.until != step.t1), dues)


class Begun(NamedTuple):
    """A step and where it started; `carry` is None where `init` makes it from the state."""

    taken: Taken
    y: Tensor
    carry: Carry


@dataclass(eq=False)
class _States:
    """The attempted steps of a solve, in order, and the states before them."""

    one_step: bool
    latest: Tensor
    kept: list[Begun] = field(default_factory=list)

    def keep(self, step: SampleStep, dues: list[Due]) -> None:
        """Note a step, unless all of its rows stand still."""
        accepted = step.accepted
        if not bool(accepted.any()):
            return
        carry = None if self.one_step else step.carry
        self.kept.append(Begun(Taken.of(step, dues, accepted), step.y0, carry))
        reached = where(accepted, step.step.y, step.y0)
        self.latest = self.latest.index_copy(0, step.rows, reached)


def solve_samples_recorded(
    problem: SampleProblem,
    plan: Plan,
    name: str,
    evaluated: Callable[[Again], VectorField],
) -> SampleTrajectory:
    """Solve without a graph and attach going back through the steps as the backward pass.

    `evaluated` gives the field with which a step is made again to be differentiated.
    """
    if not torch.is_grad_enabled():
        return forward_samples(problem, plan)
    record = _States(plan.solver.one_step, problem.y0.detach())
    watched = Watched(problem.field)
    made, replay = solved_samples(problem, plan, name, watched, record.keep)
    tensors = watched.tensors
    if differentiable(problem.y0, tensors):
        back = _Stored(problem, plan, replay, record.latest, evaluated, record.kept)
        (made.ys,) = attach_all(name, back, (made.ys,), problem.y0, tensors)
    return made


@dataclass(frozen=True, eq=False)
class SampleRewind(ABC):
    """The backward pass: every recorded step again, from the last to the first.

    `latest` are the last states of all samples, `[B, ...]`.
    """

    problem: SampleProblem
    plan: Plan
    replay: Replay
    latest: Tensor

    @property
    def begin(self) -> Tensor:
        """Where f was called first, `[B]`: the far side of a jump at the start."""
        return Stops.of(self.problem).begin

    @abstractmethod
    def steps(self, f: VectorField) -> Iterator[Begun]:
        """Yield the steps, the last one first."""

    def evaluated(self, again: Again) -> VectorField:
        """Return the field with which a step is made again to be differentiated."""
        return again

    def __call__(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Grads]:
        """Return the gradients of `y0` and `tensors` from those of the states `[T, B, ...]`."""
        f, calls, (grad_ys,) = self.problem.field, self.problem.field.calls, grads
        totals: Grads = [None] * len(tensors)
        after, later = self.latest, [torch.zeros_like(y0)]
        with self.replay.again(tensors) as again:
            for begun in self.steps(again):
                self._pull(begun, after, later, grad_ys, again, totals)
                after = after.index_copy(0, begun.taken.rows, begun.y)
            if len(later) > 1:
                self._pull_start(y0, later, again, totals)
        still = (self.problem.ts.detach() == self.problem.start[:, None]).T
        still = still.view(*still.shape, *(1,) * (y0.dim() - 1))
        self.problem.stats.backward_f_calls += f.calls - calls
        f.forget()
        return later[0] + torch.where(still, grad_ys, 0.0).sum(0), totals

    def _pull(
        self,
        begun: Begun,
        after: Tensor,
        later: list[Tensor],
        grad_ys: Tensor,
        again: Again,
        totals: Grads,
    ) -> None:
        """Put what a step makes of the gradients of its end into those of its start, in place.

        `later` are those of all samples' states, `[B, ...]`, and of the carry.
        """
        taken, rows = begun.taken, begun.taken.rows
        with torch.enable_grad():
            f = self.evaluated(again)
            y = begun.y.detach().requires_grad_()
            leaves: list[Tensor] = []
            if begun.carry is None:
                carry = self.plan.solver.init(f, taken.t0, y)
            else:
                leaves = [x.detach().requires_grad_() for x in leaves_of(begun.carry)]
                carry = with_leaves(begun.carry, leaves)
            known = after[rows] if begun.carry is None else None
            step = self._replayed(f, taken, (y, carry), known)
            # Rows that stand still keep their value in a step, but its derivative need not know.
            moved = where(taken.t1 != taken.t0, step.y, y)
            reached, pulled = [moved], [later[0][rows]]
            if len(later) > 1:
                reached += leaves_of(self._left(f, taken, step, carry))
                pulled += [x[rows] for x in later[1:]]
            reached += self.outputs(f, taken, y, step)
            pulled += [grad_ys[due.columns, rows[due.rows]] for due in taken.dues]
            live = [(x, g) for x, g in zip(reached, pulled, strict=True) if x.requires_grad]
        ends, grads = zip(*live, strict=True)
        found = torch.autograd.grad(ends, [y, *leaves, *again.tensors], grads, allow_unused=True)
        inner = 1 + len(leaves)
        if len(later) < inner:
            batch = len(later[0])
            later += [x.new_zeros(batch, *x.shape[1:]) for x in leaves]
        for k, grad in enumerate(found[:inner]):
            # What a step does not depend on says nothing about its start.
            given = torch.zeros_like(later[k][rows]) if grad is None else grad
            later[k] = later[k].index_copy(0, rows, given)
        _add(totals, found[inner:])

    def _pull_start(self, y0: Tensor, later: list[Tensor], again: Again, totals: Grads) -> None:
        """Add what the first carry, made from the start, says about that."""
        with torch.enable_grad():
            y = y0.detach().requires_grad_()
            carry = self.plan.solver.init(self.evaluated(again), self.begin, y)
        pairs = zip(leaves_of(carry), later[1:], strict=True)
        live = [(x, g) for x, g in pairs if x.requires_grad]
        if not live:
            return
        ends, grads = zip(*live, strict=True)
        first, *found = torch.autograd.grad(ends, [y, *again.tensors], grads, allow_unused=True)
        later[0] = later[0] if first is None else later[0] + first
        _add(totals, found)

    def _replayed(
        self, f: VectorField, taken: Taken, start: tuple[Tensor, Carry], after: Tensor | None
    ) -> Step:
        """Return a step made again, whose end `after` is known where its carry was made anew."""
        solver = self.plan.solver
        again = getattr(solver, "replay", None)
        if again is not None and after is not None:
            step: Step = again(f, taken.t0, taken.t1, *start, after)
            return step
        return solver.step(f, taken.t0, taken.t1, *start, None)

    def _left(self, f: VectorField, taken: Taken, step: Step, carry: Carry) -> Carry:
        """Return the carry with which each sample goes on."""
        left = where(taken.t1 != taken.t0, step.carry, carry)
        if bool(taken.jumped.any()):
            start = torch.where(taken.jumped, taken.until, taken.t1)
            left = where(taken.jumped, self.plan.solver.init(f, start, step.y), left)
        return left

    def outputs(self, f: VectorField, taken: Taken, y: Tensor, step: Step) -> list[Tensor]:
        """Return the states that a step answered for, those of each of its dues together."""
        at = None
        if any(bool(due.inner.any()) for due in taken.dues):
            at = interpolant(self.plan.solver, f, (taken.t0, taken.t1), y, step)
        return [due.states(step, at) for due in taken.dues]


@dataclass(frozen=True, eq=False)
class _Stored(SampleRewind):
    """Going back from stored states; `field_of` gives the field to differentiate with."""

    field_of: Callable[[Again], VectorField]
    kept: list[Begun]

    def steps(self, f: VectorField) -> Iterator[Begun]:
        """Yield the steps, the last one first."""
        del f
        return reversed(self.kept)

    def evaluated(self, again: Again) -> VectorField:
        """Return the field with which a step is made again to be differentiated."""
        return self.field_of(again)


def _add(totals: Grads, found: Sequence[Tensor | None]) -> None:
    for k, grad in enumerate(found):
        if grad is not None:
            totals[k] = sum_of(totals[k], grad)
