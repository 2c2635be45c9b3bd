"""Going back through a recorded solve: every step made again on its own, the last one first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ode_core import UnsupportedError
from ode_core.attach import attach_all, differentiable, refuse_transforms
from ode_core.capture import Watched
from ode_core.clock import moving
from ode_core.interpolation import interpolant
from ode_core.loops.collected import needs_interpolant, output_at
from ode_core.loops.march import Accepted
from ode_core.loops.outputs import forward
from ode_core.replay import Again, Replay
from ode_solvers.gradients.leaves import leaves_of, with_leaves
from ode_solvers.gradients.pulls import Pulls, sum_of
from ode_solvers.gradients.schedule import backwards
from ode_solvers.gradients.tape import Budget, State, Tape

if TYPE_CHECKING:
    from ode_core import Plan, Step
    from ode_core.attach import Gradients
    from ode_core.problem import Problem
    from ode_core.protocols import Carry, VectorField
    from ode_core.solution import Trajectory

    Grads = list[Tensor | None]


def refuse_outside_of_torch(plan: Plan) -> None:
    """Raise UnsupportedError for a solver whose steps torch does not see."""
    if not getattr(plan.solver, "differentiable", True):
        raise UnsupportedError(
            f"{plan.solver.name} takes its steps outside of torch, so none can be replayed; "
            "take another solver"
        )


def solve_recorded(
    problem: Problem,
    plan: Plan,
    name: str,
    budget: Budget,
    make: Callable[[Problem, Plan, Tape, Replay], Rewind],
) -> Trajectory:
    """Solve without a graph and attach going back through the steps as the backward pass.

    `make` gives the backward pass of the gradient method `name`.
    """
    if not torch.is_grad_enabled():
        return forward(problem, plan)
    refuse_transforms(name, problem.y0)
    replay, watched = Replay(problem.field, problem.y0.device), Watched(problem.field)
    tape = Tape(plan, problem.times[0], budget)
    detached = replace(problem, y0=problem.y0.detach(), clock=None)
    with torch.no_grad():
        trajectory = forward(detached, tape.plan(), on_step=tape.keep, watched=watched)
    replay.settle()
    tensors = (*watched.tensors, *shifts_of(problem), *begun_with(plan))
    if trajectory.status.failed or not differentiable(problem.y0, tensors):
        return trajectory
    placed = problem.at(trajectory.times, trajectory.wanted)
    # Where a solve goes on from this one with its carry, gradients come back through that, too.
    end = trajectory.end
    left = [] if plan.solver.one_step or end is None else leaves_of(end.carry)
    outputs = (trajectory.ys, *(x.clone() for x in left))
    back = make(placed, plan, tape, replay)
    trajectory.ys, *carried = attach_all(name, back, outputs, problem.y0, tensors)
    if end is not None and carried:
        trajectory.end = end._replace(carry=with_leaves(end.carry, carried))
    return trajectory


def shifts_of(problem: Problem) -> tuple[Tensor, ...]:
    """Return what the times of steps depend on, where they are differentiated through those."""
    return () if problem.clock is None else (problem.clock.shifts,)


def begun_with(plan: Plan) -> list[Tensor]:
    """Return the tensors of the carry that a solve goes on with, where it is one that does."""
    goes_on = plan.start is not None and not plan.solver.one_step
    return leaves_of(plan.start.carry) if goes_on and plan.start is not None else []


@dataclass(frozen=True, eq=False)
class Pass:
    """What one backward pass goes by: `field` is what gives steps made again their graph."""

    again: Again
    field: VectorField
    pulls: Pulls
    grad_ys: Tensor


@dataclass(frozen=True, eq=False)
class Rewind:
    """The backward pass: every recorded step again, from the last to the first."""

    problem: Problem
    plan: Plan
    tape: Tape
    replay: Replay

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The states and carries that are kept; none with a budget, where they make room."""
        return self.tape.tensors if self.tape.slots is None else ()

    def __call__(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        """Return the gradients of `y0` and `tensors` from those of the states and of the carry."""
        field, tape = self.problem.field, self.tape
        calls = field.calls
        captured, begun = self.parts(tensors)
        with self.replay.again(captured) as again:
            timed = self.timed(again)
            states = backwards(
                tape.taken(), len(tape), tape.slots or len(tape), self._from(again.field)
            )
            now = Pass(again, self.evaluated(again), Pulls(again.tensors), grads[0])
            after, later = tape.latest, [None, *grads[1:]]
            for index, state in states:
                pulled = timed._pulled_back(index, state, after, later, now)
                later = (
                    timed._made_again(index, state, after, later, now) if pulled is None else pulled
                )
                after = state.y
        grad_y0 = grads[0][: self.problem.times.count(self.problem.times[0])].sum(0)
        if later[0] is not None:
            grad_y0 = grad_y0 + later[0]
        self.problem.stats.backward_f_calls += field.calls - calls
        field.forget()
        return grad_y0, [*now.pulls.totals, *later[1 : 1 + len(begun)]]

    def parts(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what f depends on, and those of the carry that the solve began with."""
        count = len(tensors) - len(begun_with(self.plan))
        return tensors[:count], tensors[count:]

    def timed(self, again: Again) -> Self:
        """Return the same with the ends of steps that move with the last tensor of the replay."""
        clock = self.problem.clock
        if clock is None:
            return self
        clock = replace(clock, shifts=again.tensors[-1])
        return replace(
            self, problem=replace(self.problem, clock=clock), plan=moving(self.plan, clock)
        )

    @staticmethod
    def evaluated(again: Again) -> VectorField:
        """Return the field with which a step is made again to be differentiated."""
        return again

    def _from(self, f: VectorField) -> Callable[[int, int, State], State]:
        """Return what makes the state before a step from that before an earlier one."""

        def advance(start: int, end: int, state: State) -> State:
            with torch.no_grad():
                y, carry = state
                carry = self.begin(f, start, y, None) if carry is None else carry
                for index in range(start, end):
                    step = self.step(f, index, y, carry)
                    y = step.y
                    own = self.tape.fresh(index + 1)
                    if index + 1 < end or not (own or self.plan.solver.one_step):
                        carry = self.begin(f, index + 1, y, None if own else step.carry)
            own = self.tape.fresh(end) or self.plan.solver.one_step
            return State(y, None if own else carry)

        return advance

    def step(self, f: VectorField, index: int, y: Tensor, carry: Carry) -> Step:
        """Return a step as it was made in the forward solve, with the carry it left then."""
        solver, (t0, t1, _) = self.plan.solver, self.tape.span(index)
        # What a carry says about later steps may depend on the error of this one.
        tolerance = None if solver.one_step else self.plan.tolerance
        return solver.step(f, t0, t1, y, carry, tolerance)

    def begin(self, f: VectorField, index: int, y: Tensor, carry: Carry) -> Carry:
        """Return the carry with which a step was accepted, from that left by the step before.

        None is for one that `init` makes; rejected attempts may have changed either.
        """
        solver, t0 = self.plan.solver, self.tape.span(index)[0]
        carry = solver.init(f, t0, y) if carry is None else carry
        for end in self.tape.rejected(index):
            tried = solver.step(f, t0, end, y, carry, self.plan.tolerance)
            # One that was not too bad was made again for the sake of an event.
            refused = tried.error is not None and not float(tried.error) <= 1.0
            carry = tried.retry if refused and tried.retry is not None else carry
        return carry

    def _pulled_back(
        self, index: int, state: State, after: Tensor | None, later: Grads, now: Pass
    ) -> Grads | None:
        """Return a step's gradients where its solver has a way of its own to them, else None.

        Both are as for `_made_again`.
        """
        solver: Any = self.plan.solver
        # Of the solver's own class: what stands around one knows more than it does.
        own = hasattr(type(solver), "pull_step") and state.carry is not None
        if not own or after is None or not self.only_at_end(index):
            return None
        leaves = leaves_of(state.carry)
        given = [self.at_end(index, later, now), *(later[1:] or [None] * len(leaves))]
        if all(grad is None for grad in given):
            return given
        y, *carry = (
            torch.zeros_like(x) if grad is None else grad
            for grad, x in zip(given, (after, *leaves), strict=True)
        )
        ends = y, with_leaves(state.carry, carry)
        span = self.tape.span(index)[:2]
        found = solver.pull_step(now.again, span, state, after, ends, now.pulls)
        return None if found is None else [found[0], *leaves_of(found[1])]

    def only_at_end(self, index: int) -> bool:
        """Return whether a step answered for no state but that at its end."""
        end = self.tape.span(index)[1]
        return all(self.problem.times[k] == end for k in self.tape.outputs(index))

    def at_end(self, index: int, later: Grads, now: Pass) -> Tensor | None:
        """Return the gradient of the state at the end of a step, None where there is none."""
        total = later[0]
        for k in self.tape.outputs(index):
            total = sum_of(total, now.grad_ys[k])
        return total

    def _made_again(
        self, index: int, state: State, after: Tensor | None, later: Grads, now: Pass
    ) -> Grads:
        """Return the gradients of the state, and the carry, that a step made again starts from.

        `later` is what the later steps say about those that this one ends with.
        """
        f, outputs = now.field, self.tape.outputs(index)
        with torch.enable_grad():
            y = state.y.detach().requires_grad_()
            if state.carry is None:
                carry, leaves = self.begin(f, index, y, None), []
            else:
                leaves = [x.detach().requires_grad_() for x in leaves_of(state.carry)]
                carry = with_leaves(state.carry, leaves)
            step = self._replayed(f, index, (y, carry), after, known=state.carry is None)
            reached = [step.y, *(leaves_of(step.carry) if len(later) > 1 else ())]
            if outputs:
                reached += self.outputs(f, index, y, carry, step)
            pulled = [*later, *(now.grad_ys[k] for k in outputs)]
            pairs = zip(reached, pulled, strict=True)
            live = [(x, g) for x, g in pairs if g is not None and x.requires_grad]
        inner, inputs = 1 + len(leaves), [y, *leaves, *now.pulls.tensors]
        if not live:
            return [None] * inner
        ends, grads = zip(*live, strict=True)
        found = torch.autograd.grad(ends, inputs, grads, allow_unused=True)
        now.pulls.add(found[inner:])
        return list(found[:inner])

    def _replayed(
        self,
        f: VectorField,
        index: int,
        start: tuple[Tensor, Carry],
        after: Tensor | None,
        *,
        known: bool,
    ) -> Step:
        solver, (t0, t1, _) = self.plan.solver, self.tape.span(index)
        again = getattr(solver, "replay", None)
        if again is not None and known and solver.one_step:
            step: Step = again(f, t0, t1, *start, after)
            return step
        return solver.step(f, t0, t1, *start, None)

    def outputs(
        self, f: VectorField, index: int, y: Tensor, carry: Carry, step: Step
    ) -> list[Tensor]:
        """Return the states that a step answered for."""
        span = self.tape.span(index)
        outputs = self.tape.outputs(index)
        accepted = Accepted(*span, y, carry, step, fresh=self.tape.fresh(index))
        at = None
        if needs_interpolant(self.problem, accepted, outputs):
            at = interpolant(self.plan.solver, f, span[:2], y, step)
        return [output_at(self.problem, k, accepted, at) for k in outputs]
