"""Per-sample steps taken back one by one: exact gradients from the ends of the samples alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from ode_core import SolveError
from ode_core.attach import attach, differentiable
from ode_core.capture import Watched
from ode_core.loops.sample_outputs import forward_samples
from ode_core.rows import by_row, take, where
from ode_solvers.gradients.sample_forward import solved_samples
from ode_solvers.gradients.sample_rewind import Begun, SampleRewind, Taken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan, Step
    from ode_core.loops.sample_march import SampleStep
    from ode_core.loops.sample_outputs import Due, SampleTrajectory
    from ode_core.protocols import Carry, VectorField
    from ode_core.replay import Replay
    from ode_core.samples import SampleProblem


@dataclass(eq=False)
class _Ends:
    """The attempted steps of a solve without their states, and where each sample has come to.

    `jumps` are, by step, the rows in which a sample goes on from a jump, with the time, the state
    and the carry before it.
    """

    latest: Tensor
    carry: Carry = None
    steps: list[Taken] = field(default_factory=list)
    jumps: dict[int, tuple[Tensor, Tensor, tuple[Tensor, Carry]]] = field(default_factory=dict)

    def keep(self, step: SampleStep, dues: list[Due]) -> None:
        """Note a step, unless all of its rows stand still."""
        # A state that is not finite ends a sample, and cannot be taken back.
        moved = step.accepted & by_row(step.step.y).isfinite().all(1)
        which = moved.nonzero()[:, 0]
        if not len(which):
            return
        taken, rows = Taken.of(step, dues, moved), step.rows[which]
        reached = take((step.step.y, step.step.carry), which)
        ended = taken.jumped.nonzero()[:, 0]
        if len(ended):
            states = take((step.step.y, step.step.carry), ended)
            self.jumps[len(self.steps)] = (step.rows[ended], step.t1[ended], states)
        self.steps.append(taken)
        if self.carry is None:
            batch = len(self.latest)
            self.carry = pytree.tree_map(
                lambda x: x.new_zeros(batch, *x.shape[1:]), step.step.carry
            )
        self.latest, self.carry = _put((self.latest, self.carry), rows, reached)


def solve_samples_reversed(problem: SampleProblem, plan: Plan, name: str) -> SampleTrajectory:
    """Solve without a graph and attach the steps backwards as the backward pass."""
    if not torch.is_grad_enabled():
        return forward_samples(problem, plan)
    watched, ends = Watched(problem.field), _Ends(problem.y0.detach())
    made, replay = solved_samples(problem, plan, name, watched, ends.keep)
    tensors = watched.tensors
    if differentiable(problem.y0, tensors):
        pull = _Pull(problem, plan, ends, replay)
        made.ys = attach(name, pull, made.ys, problem.y0, tensors)
    return made


@dataclass(frozen=True, eq=False)
class _Pull:
    """The backward pass of one solve."""

    problem: SampleProblem
    plan: Plan
    ends: _Ends
    replay: Replay

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The ends of the samples."""
        return self.ends.latest, *pytree.tree_leaves(self.ends.carry)

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        if y0.numel() == 0:
            return torch.zeros_like(y0), [None] * len(tensors)
        asked = by_row((grad_ys != 0).transpose(0, 1)).any(1)
        latest = self.ends.latest
        back = _Reversed(self.problem, self.plan, self.replay, latest, self.ends, ys, asked)
        return back((grad_ys,), y0, tensors)


@dataclass(frozen=True, eq=False)
class _Reversed(SampleRewind):
    """Every step taken back and made again, from the last to the first.

    `asked`, `[B]`, are the samples whose states have gradients; the others stay at their start.
    """

    ends: _Ends
    ys: Tensor
    asked: Tensor

    def steps(self, f: VectorField) -> Iterator[Begun]:
        """Yield the steps with their rebuilt states, the last one first."""
        solver: Any = self.plan.solver
        ends = self.ends
        if not ends.steps:
            return
        with torch.no_grad():
            y0 = self.problem.y0.detach()
            start = (y0, solver.init(f, self.begin, y0))
        y, carry = where(self.asked, (self.latest, ends.carry), start)
        for index in range(len(ends.steps) - 1, -1, -1):
            taken = self._alive(ends.steps[index])
            if index in ends.jumps:
                rows, t, before = ends.jumps[index]
                self._compare(rows, t, y[rows], before[0])
                asked = self.asked[rows]
                y, carry = _put((y, carry), rows[asked], take(before, asked.nonzero()[:, 0]))
            with torch.no_grad():
                reached = take((y, carry), taken.rows)
                back = solver.reverse(f, taken.t0, taken.t1, *reached)
            y, carry = _put((y, carry), taken.rows, back)
            yield Begun(taken, back[0], None if solver.one_step else back[1])
        self._compare_start((y, carry), start)

    def outputs(self, f: VectorField, taken: Taken, y: Tensor, step: Step) -> list[Tensor]:
        """Return the states that a step answered for, after a look at the true ones."""
        states = super().outputs(f, taken, y, step)
        for due, state in zip(taken.dues, states, strict=True):
            moved = (taken.t1 != taken.t0)[due.rows]
            rows = taken.rows[due.rows][moved]
            true = self.ys[due.columns[moved], rows]
            self._compare(rows, taken.t1[due.rows][moved], state.detach()[moved], true)
        return states

    def _alive(self, taken: Taken) -> Taken:
        """Return the step with the samples that nothing is asked about standing still."""
        asked = self.asked[taken.rows]
        t1 = torch.where(asked, taken.t1, taken.t0)
        return replace(taken, t1=t1, jumped=taken.jumped & asked)

    def _compare_start(self, rebuilt: tuple[Tensor, Carry], true: tuple[Tensor, Carry]) -> None:
        """Compare the rebuilt starts, and the carries there, with the true ones."""
        t, y0 = self.problem.start, true[0]
        moved = torch.zeros_like(t, dtype=torch.bool)
        for taken in self.ends.steps:
            moved[taken.rows] |= taken.t1 != taken.t0
        rows = moved.nonzero()[:, 0]
        for x, known in zip(pytree.tree_leaves(rebuilt), pytree.tree_leaves(true), strict=True):
            self._compare(rows, t[rows], x[rows], known[rows], y0[rows])

    def _compare(
        self, rows: Tensor, t: Tensor, rebuilt: Tensor, true: Tensor, like: Tensor | None = None
    ) -> None:
        """Raise SolveError where rebuilt rows, `[n, ...]`, are not the true ones.

        The difference allowed is the root of the dtype's rounding, relative to the true rows or,
        where these are smaller, to rows `like` them.
        """
        asked = self.asked[rows]
        rows, t, rebuilt, true = rows[asked], t[asked], rebuilt[asked], true[asked]
        if not len(rows):
            return
        size = by_row(true.abs()).amax(1)
        if like is not None:
            size = size.maximum(by_row(like[asked].abs()).amax(1))
        away = by_row((rebuilt - true).abs()).amax(1) / torch.where(size > 0.0, size, 1.0)
        root = torch.finfo(self.problem.y0.dtype).eps ** 0.5
        lost = (~(away <= root)).nonzero()[:, 0]
        if len(lost):
            row, others = int(rows[lost[0]]), len(lost) - 1
            also = f" (and {others} more)" if others else ""
            raise SolveError(
                f"{self.plan.solver.name} could not be taken back for sample {row}{also}: at "
                f"t = {float(t[lost[0]]):.6g} the rebuilt state is {float(away[lost[0]]):.3g} of "
                "its size away from the true one, so that its gradient would be wrong; take "
                "gradient='checkpoint', float64 or a shorter solve"
            )


def _put(whole: Any, rows: Tensor, part: Any) -> Any:
    """Return a pytree of tensors `[B, ...]` with the given rows of another's in their place."""
    return pytree.tree_map(lambda x, new: x.index_copy(0, rows, new), whole, part)
