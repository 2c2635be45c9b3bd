"""What is collected from accepted steps: requested states, those of events, quadrature nodes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ode_core.control import FixedSteps
from ode_core.events import Seen, Watch
from ode_core.interpolation import interpolant
from ode_core.loops.march import Accepted, Again
from ode_core.loops.quadrature import GAUSS
from ode_core.solution import Node, Piece, Switch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ode_core.problem import Problem
    from ode_core.protocols import Plan

# How often in a row a step is made a quarter as long, to see whether an event is there.
_SHORTENED = 3

# From how many outputs in a step they are made together: fewer are as quick one by one.
_MANY = 8


class Collected:
    """Collects states in the order of time: requested ones, those of events, quadrature nodes."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self._problem, self._plan = problem, plan
        given = problem.given
        self._watch = Watch(problem.field, given.events) if given.events else None
        self._integrand = given.integrand is not None
        count = problem.times.count(problem.times[0])
        self.states = [problem.y0] * count
        self.times = list(problem.times[:count])
        self.wanted = list(range(count))
        self.events: list[tuple[int, int]] = []
        self.nodes: list[Node] = []
        self.pieces: list[Piece] = []
        self.halted: float | None = None
        self._at: Callable[[float], Tensor] | None = None
        self._within: list[int] = []
        self._seen: list[Seen] = []
        self._shortened = 0
        self.switches: list[Switch] = []
        self._method = ""
        self._active: Callable[[Any], str] | None = getattr(plan.solver, "active", None)
        self._within_each = plan.dense or self._watch is not None or self._integrand
        self._each = self._within_each or self._active is not None
        self._sign = problem.direction
        self._due = self._next()

    def concerns(self, accepted: Accepted) -> bool:
        """Return whether there is anything to collect in a step."""
        return self._each or self._sign * (accepted.until - self._due) >= 0.0

    def look(self, f: Callable[[Any, Tensor], Tensor], accepted: Accepted) -> Again | None:
        """Prepare for a step; ask for a shorter one where its error may hide an event."""
        problem, plan = self._problem, self._plan
        self._within = _within(problem, accepted.until, len(self.wanted))
        self._at, self._seen = None, []
        within = self._within
        if self._within_each or (within and needs_interpolant(problem, accepted, within)):
            self._at = interpolant(plan.solver, f, accepted.span, accepted.y0, accepted.step)
        if self._watch is None or self._at is None:
            return None
        fresh = accepted.t0 == problem.span[0]
        self._seen, near = self._watch.within(accepted.span, self._at, fresh=fresh)
        chosen = not isinstance(plan.controller, FixedSteps)
        if near and not self._seen and chosen and self._shortened < _SHORTENED:
            self._shortened += 1
            return Again(0.25)
        self._shortened = 0
        return None

    def take(self, accepted: Accepted) -> list[int]:
        """Take what lies in an accepted step; return the indices of the new states."""
        problem, plan, at, within = self._problem, self._plan, self._at, self._within
        if self._active is not None:
            # At a jump the solver starts anew, and may change over, too.
            for t, carry in ((accepted.t0, accepted.carry), (accepted.t1, accepted.step.carry)):
                method = self._active(carry)
                if self._method not in ("", method):
                    self.switches.append(Switch(t, method))
                self._method = method
        if plan.dense and at is not None:
            clock = problem.clock
            still = at if clock is None else clock.fixed((*accepted.span, accepted.step.y), at)
            self.pieces.append(Piece(accepted.t0, accepted.t1, accepted.until, still))
        before = len(self.states)
        if self._watch is None and not self._integrand:
            self.times += [problem.times[i] for i in within]
            self.states += outputs_at(problem, within, accepted, at)
            self.wanted += range(before, len(self.states))
        else:
            self._mixed(accepted, at, within)
        if plan.dense and self.halted is not None:
            self.pieces[-1] = replace(self.pieces[-1], until=self.halted)
        self._due = self._next()
        return list(range(before, len(self.states)))

    def _next(self) -> float:
        """Return the next time that was asked for, the end of all time where there is none."""
        times, reached = self._problem.times, len(self.wanted)
        return times[reached] if reached < len(times) else self._sign * math.inf

    def _mixed(
        self, accepted: Accepted, at: Callable[[float], Tensor] | None, within: list[int]
    ) -> None:
        problem, seen = self._problem, self._seen
        sign = problem.direction
        if seen and problem.given.events[seen[-1].event].stops:
            self.halted = seen[-1].t
            within = [i for i in within if (problem.times[i] - self.halted) * sign <= 0.0]
        marks: list[tuple[float, Any]] = [(problem.times[i], None) for i in within]
        marks += [(one.t, one) for one in seen]
        if self._integrand:
            end = accepted.t1 if self.halted is None else self.halted
            marks += self._gauss(accepted.t0, end, within)
        marks.sort(key=lambda mark: sign * mark[0])
        for t, what in marks:
            self._add(accepted, at, t)
            row = len(self.states) - 1
            if what is None:
                self.wanted.append(row)
            elif isinstance(what, Seen):
                self.events.append((row, what.event))
            else:
                self.nodes.append(what._replace(row=row))

    def _gauss(self, t0: float, t1: float, within: list[int]) -> list[tuple[float, Node]]:
        """Return quadrature nodes between the outputs of a step, with the outputs they count to."""
        problem = self._problem
        inner = [i for i in within if (problem.times[i] - t1) * problem.direction < 0.0]
        ends = [t0, *(problem.times[i] for i in inner), t1]
        first = len(self.wanted)
        return [
            (a + node * (b - a), Node(-1, first + k, weight * (b - a)))
            for k, (a, b) in enumerate(pairwise(ends))
            if a != b
            for node, weight in GAUSS
        ]

    def _add(self, accepted: Accepted, at: Callable[[float], Tensor] | None, t: float) -> None:
        self.times.append(t)
        self.states.append(state_at(accepted, t, at))


def _within(problem: Problem, until: float, reached: int) -> list[int]:
    times, direction = problem.times, problem.direction
    end = reached
    while end < len(times) and (times[end] - until) * direction <= 0.0:
        end += 1
    return list(range(reached, end))


def needs_interpolant(problem: Problem, accepted: Accepted, indices: Sequence[int]) -> bool:
    """Return whether the states at some of the times asked for take a step's interpolant."""
    clock = problem.clock
    if clock is None:
        return any(problem.times[i] != accepted.t1 for i in indices)
    # A time on a node need not move with it.
    return any(not clock.ends_at(accepted.t1, i) for i in indices)


def outputs_at(
    problem: Problem, indices: Sequence[int], accepted: Accepted, at: Callable[[Any], Tensor] | None
) -> list[Tensor]:
    """Return the states at times asked for, in their order; `at` is the step's interpolant."""
    many: Callable[[list[float]], Sequence[Tensor]] | None = getattr(at, "many", None)
    if many is None or problem.clock is not None or len(indices) < _MANY:
        return [output_at(problem, i, accepted, at) for i in indices]
    t0, t1 = accepted.t0, accepted.t1
    thetas = [(problem.times[i] - t0) / (t1 - t0) for i in indices]
    inner = [theta for theta in thetas if theta < 1.0]
    return [*many(inner), *(accepted.step.y for _ in thetas[len(inner) :])]


def output_at(
    problem: Problem, index: int, accepted: Accepted, at: Callable[[Any], Tensor] | None
) -> Tensor:
    """Return the state at a time asked for that this step answers for; `at` is its interpolant."""
    if problem.clock is None:
        return state_at(accepted, problem.times[index], at)
    ends = (*accepted.span, accepted.step.y)
    return problem.clock.output(index, problem.times[index], ends, at)


def state_at(accepted: Accepted, t: float, at: Callable[[float], Tensor] | None) -> Tensor:
    """Return the state at a time that this step answers for; `at` is its interpolant."""
    t0, t1 = accepted.t0, accepted.t1
    if at is None or t == t1 or (t - t1) * (t1 - t0) > 0.0:
        return accepted.step.y
    return at((t - t0) / (t1 - t0))
