"""Gradients with respect to the times of a solve with given steps, exact for the discrete solve.

With given steps the nodes are functions of the times asked for: t0 + i dt moves with the start, the
last node is the end, a node of a grid moves with the time that it equals, if any, and both sides of
a jump stand still. How far each moves is a zero that carries a gradient: no value changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.control import FixedSteps
from ode_core.interpolation import interpolant
from ode_core.problem import neighbours
from ode_core.rows import along

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ode_core.problem import Problem
    from ode_core.protocols import Carry, Interpolant, Plan, Solver, Step, VectorField
    from ode_core.tolerance import Tolerance

Ends = tuple[float, float, Tensor]
"""Of a step: its start, its end and the state there."""


@dataclass(frozen=True, eq=False)
class Clock:
    """How the times of one solve move with the `[T]` times that were asked for.

    `shifts` is `[T]` float64, zeros with a gradient to those. `sources` says with which of them the
    ends of some steps move, None for those that stand still; others move with `otherwise`.
    """

    shifts: Tensor
    sources: Mapping[float, int | None]
    otherwise: int | None

    def source(self, t: float) -> int | None:
        """Return the index of the time with which a step's end moves."""
        return self.sources.get(t, self.otherwise)

    def shift(self, t: float) -> Tensor | float:
        """Return how far a step's end moves: a 0-d zero with a gradient, or 0.0."""
        index = self.source(t)
        return 0.0 if index is None else self.shifts[index]

    def time(self, t: float) -> Tensor:
        """Return a step's end as a 0-d float64 tensor."""
        found = t + torch.as_tensor(self.shift(t), dtype=torch.float64, device=self.shifts.device)
        return found

    def stretches(self, t0: float, t1: float) -> bool:
        """Return whether the size of a step changes with the times asked for."""
        return self.source(t0) != self.source(t1)

    def field(self, f: VectorField, t0: float, t1: float) -> VectorField:
        """Return f as a step from t0 to t1 sees it on a clock on which its ends stand still."""
        if self.stretches(t0, t1):
            return _Stretched(f, t0, t1 - t0, self.shift(t0), self.shift(t1))
        if self.source(t0) is None:
            return f
        shift = self.shift(t0)
        return lambda t, y: f(t + shift, y)

    def state(self, ends: Ends, at: Interpolant, t: float, shift: Any) -> Tensor:
        """Return the state at a time within a step, or at its end, which moves by `shift`."""
        t0, t1, y1 = ends
        length, start = t1 - t0, self.shift(t0)
        # Between the two sides of a jump the state is the one before it.
        theta = 1.0 if (t - t1) * length >= 0.0 else (t - t0) / length
        moved = (theta * length + (shift - start)) / (length + (self.shift(t1) - start))
        state = at(torch.as_tensor(moved, dtype=torch.float64))
        # At an end the value is the step's own, to the bit.
        return state + (y1 - state).detach() if theta == 1.0 else state

    def output(self, index: int, t: float, ends: Ends, at: Interpolant | None) -> Tensor:
        """Return the state at a time asked for; `at` is the step's interpolant, if it is needed."""
        if at is None or self.ends_at(ends[1], index):
            return ends[2]
        return self.state(ends, at, t, self.shifts[index])

    def ends_at(self, t1: float, index: int) -> bool:
        """Return whether a step's end is a time asked for, and moves with it."""
        return self.source(t1) == index

    def fixed(self, ends: Ends, at: Interpolant) -> Interpolant:
        """Return a step's interpolant for times that stand still while the step moves."""
        t0, t1, _ = ends
        return lambda theta: self.state(ends, at, t0 + theta * (t1 - t0), 0.0)


def clock_of(problem: Problem, plan: Plan) -> Clock | None:
    """Return the clock of a solve, or None where its times are not differentiated through steps.

    Steps are then chosen, or there are events or integrals, or the solver has a history, or an
    interpolant, that knows nothing of moving times.
    """
    solver, controller = plan.solver, plan.controller
    if not isinstance(controller, FixedSteps) or problem.given.asks:
        return None
    own = not solver.one_step or hasattr(solver, "interpolant")
    if not getattr(solver, "moving_times", not own):
        return None
    sources: dict[float, int | None] = {}
    if controller.grid is not None:
        sources |= {t: index for index, t in enumerate(problem.times)}
    for jump in problem.jumps:
        sources |= dict.fromkeys(neighbours(jump, problem.time_dtype, problem.direction))
    begin, end = problem.span
    sources |= {begin: 0, end: len(problem.times) - 1}
    shifts = problem.ts - problem.ts.detach()
    return Clock(shifts, sources, 0 if controller.grid is None else None)


@dataclass(frozen=True, eq=False)
class Moving:
    """A solver with given steps that differentiates them with respect to their ends, too.

    A method that begins anew from a state is given a field on a clock on which the ends stand
    still; another gets the ends as tensors. Where the size of a step of the first kind moves, its
    carry is made anew: slopes of one clock are none of another.
    """

    solver: Solver
    clock: Clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.solver, name)

    def init(self, f: VectorField, t: float, y: Tensor) -> Carry:
        """Return the carry at the start, and after anything that changed the state or f."""
        if self.solver.one_step:
            return self.solver.init(self.clock.field(f, t, t), t, y)
        return self.solver.init(f, self.clock.time(t), y)

    def step(
        self,
        f: VectorField,
        t0: float,
        t1: float,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1."""
        return self._made(self.solver.step, f, (t0, t1), y, carry, tolerance)

    def replay(
        self, f: VectorField, t0: float, t1: float, y: Tensor, carry: Carry, y1: Tensor
    ) -> Step:
        """Advance `y` again, without what only step-size control needs."""
        again = getattr(self.solver, "replay", None)
        if again is None:
            return self.step(f, t0, t1, y, carry, None)
        return self._made(again, f, (t0, t1), y, carry, y1)

    def interpolant(
        self, f: VectorField, t0: float, t1: float, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return the solution within a step, on the clock that the step was made on."""
        clock = self.clock
        if self.solver.one_step:
            return interpolant(self.solver, clock.field(f, t0, t1), (t0, t1), y0, step)
        return interpolant(self.solver, f, (clock.time(t0), clock.time(t1)), y0, step)

    def _made(
        self,
        make: Callable[..., Step],
        f: VectorField,
        span: tuple[float, float],
        y: Tensor,
        carry: Carry,
        last: Any,
    ) -> Step:
        clock, (t0, t1) = self.clock, span
        if not self.solver.one_step:
            return make(f, clock.time(t0), clock.time(t1), y, carry, last)
        seen, stretched = clock.field(f, t0, t1), clock.stretches(t0, t1)
        if stretched or carry is None:
            carry = self.solver.init(seen, t0, y)
        step = make(seen, t0, t1, y, carry, last)
        return step._replace(carry=None) if stretched else step


def moving(plan: Plan, clock: Clock | None) -> Plan:
    """Return a plan whose steps are differentiated in time, too, where there is a clock."""
    if clock is None:
        return plan
    solver: Any = Moving(plan.solver, clock)
    return replace(plan, solver=solver)


@dataclass(frozen=True, eq=False)
class _Stretched:
    """f over a step whose ends move: as it is where its time has moved to, times the stretch."""

    f: VectorField
    t0: float
    length: float
    start: Any
    end: Any
    stretch: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stretch", (self.end - self.start) / self.length)

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        slope = self.f(t + self.start + (t - self.t0) * self.stretch, y)
        return slope * along(1.0 + self.stretch, slope)
