"""A solve with shared steps, piece by piece: events that reset the state, and what they leave.

Each piece is one solve by the gradient method; where an event resets the state, the next piece
starts there. So every gradient method serves every event.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ode_core.clock import clock_of
from ode_core.events import Occurrence, attached, later, shifted
from ode_core.loops.outputs import forward
from ode_core.loops.quadrature import running
from ode_core.problem import Problem, widened
from ode_core.protocols import GradientMethod, Plan
from ode_core.solution import End, Piece, State, Status, Switch, Trajectory
from ode_core.timegrad import move_outputs, move_start


@dataclass(eq=False)
class Whole:
    """All pieces of a solve: states at the requested times, NaN where one was not reached."""

    ys: Tensor
    status: Status
    stopped_at: float
    state: State | None
    events: list[Occurrence] = field(default_factory=list)
    integrals: Tensor | None = None
    hint: str = ""
    switches: tuple[Switch, ...] = ()
    attempts: list[tuple[float, float, float, bool]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)


def solve_pieces(problem: Problem, plan: Plan, method: GradientMethod) -> Whole:
    """Solve, going on from every event that resets the state."""
    trajectory = _piece(problem, plan, method)
    whole = Whole(trajectory.ys, trajectory.status, trajectory.stopped_at, None)
    if not problem.given.asks:
        return _plain(problem, whole, trajectory)
    reached = [trajectory.ys[row] for row in trajectory.wanted]
    rest, carried = problem, None
    integrals: list[Tensor] = []
    while True:
        whole.attempts += trajectory.attempts
        whole.pieces += trajectory.pieces
        whole.status, whole.stopped_at = trajectory.status, trajectory.stopped_at
        whole.hint = trajectory.hint or whole.hint
        whole.switches += trajectory.switches
        if problem.given.integrand is not None:
            parts = _integrals(rest, trajectory, carried)
            integrals, carried = integrals + parts[:-1], parts[-1]
        made = [_occurrence(rest, trajectory, row, k) for row, k in trajectory.events]
        whole.events += [occurrence for occurrence, _, _ in made]
        if trajectory.status is not Status.EVENT:
            break
        _, t, y = made[-1]
        reset = problem.given.events[trajectory.events[-1][1]].reset
        if reset is None or len(reached) == len(problem.times):
            break
        rest, plan = _after(rest, plan, trajectory, t, reset(t.to(rest.time_dtype), y))
        trajectory = _piece(rest, plan, method)
        # The state in which this piece starts is at no time that was asked for.
        trajectory.wanted = trajectory.wanted[1:]
        trajectory.nodes = tuple(n._replace(output=n.output - 1) for n in trajectory.nodes)
        reached += [trajectory.ys[row] for row in trajectory.wanted]
    whole.ys = torch.stack(reached)
    if not whole.status.failed:
        whole.state = _state(whole, rest, trajectory)
        if whole.status is Status.EVENT:
            last = whole.events[-1]
            delay = last.t - last.t.detach() if last.t.requires_grad else None
            whole.state = dataclasses.replace(whole.state, y=last.y, delay=delay)
    missing = len(problem.times) - len(reached)
    if missing:
        whole.ys = _padded(whole.ys, missing)
    if integrals:
        whole.integrals = _padded(torch.stack(integrals), missing)
    return whole


def _plain(problem: Problem, whole: Whole, trajectory: Trajectory) -> Whole:
    """Return the whole of a solve in one piece, whose rows are the times that were asked for."""
    whole.attempts, whole.pieces = trajectory.attempts, trajectory.pieces
    whole.hint, whole.switches = trajectory.hint, trajectory.switches
    if not whole.status.failed:
        whole.state = _state(whole, problem, trajectory)
    whole.ys = _padded(whole.ys, len(problem.times) - len(whole.ys))
    return whole


def _piece(problem: Problem, plan: Plan, method: GradientMethod) -> Trajectory:
    if problem.y0.numel() == 0:
        # Nothing is solved, so there is nothing to go back through.
        return forward(problem, plan)
    own_times = getattr(method, "differentiates_time", False)
    if not (problem.ts.requires_grad and torch.is_grad_enabled()) or own_times:
        return method.solve(problem, plan)
    if getattr(method, "discrete_times", False):
        clock = clock_of(problem, plan)
        if clock is not None:
            return method.solve(dataclasses.replace(problem, clock=clock), plan)
    moved = dataclasses.replace(problem, y0=move_start(problem))
    trajectory = method.solve(moved, plan)
    if not trajectory.status.failed:
        # Not the moved start: the state at t0 is the one given, whatever t0 is.
        placed = problem.at(trajectory.times, trajectory.wanted)
        trajectory.ys = move_outputs(placed, trajectory.ys)
    return trajectory


def _padded(values: Tensor, missing: int) -> Tensor:
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), math.nan)])


def _occurrence(
    problem: Problem, trajectory: Trajectory, row: int, index: int
) -> tuple[Occurrence, Tensor, Any]:
    field, event = problem.field, problem.given.events[index]
    t = torch.tensor(trajectory.times[row], dtype=torch.float64, device=problem.ts.device)
    y = trajectory.ys[row]
    if torch.is_grad_enabled():
        calls = field.calls
        t, y = attached(field, event, t, y)
        problem.stats.f_calls += field.calls - calls
    state = field.layout.unpack(field.seen(y))
    return Occurrence(index, t, state), t, state


def _after(
    problem: Problem, plan: Plan, trajectory: Trajectory, t: Tensor, y: Any
) -> tuple[Problem, Plan]:
    """Return the rest of the problem from an event on, and a plan that keeps the step size."""
    field, at = problem.field, float(t.detach())
    start = widened(field.layout.pack(y, "what an event's reset returns"))[1]
    left = sum((time - at) * problem.direction <= 0.0 for time in problem.times)
    times = (at, *problem.times[left:])
    ts = torch.cat([t.detach().reshape(1), problem.ts[left:]])
    jumps = tuple(jump for jump in problem.jumps if (jump - at) * problem.direction > 0.0)
    edges = (False, problem.edges[1])
    rest = dataclasses.replace(problem, y0=start, ts=ts, times=times, jumps=jumps, edges=edges)
    if t.requires_grad:
        rest = later(rest, t - t.detach())
    end = trajectory.end
    state = None if end is None else State(None, at, end.dt, None, end.memory)
    return rest, dataclasses.replace(plan, start=state)


def _integrals(problem: Problem, trajectory: Trajectory, carried: Tensor | None) -> list[Tensor]:
    """Return the integrals up to each wanted time of a piece, and up to its end."""
    field, given, nodes = problem.field, problem.given, trajectory.nodes
    g: Any = given.integrand

    def value(row: int) -> Tensor:
        y = field.layout.unpack(field.seen(trajectory.ys[row]))
        made: Tensor = g(field.time(trajectory.times[row]), y, *given.args)
        return made

    count = len(trajectory.wanted) + 1
    if not nodes:
        parts = torch.zeros_like(value(0)).expand(count, *value(0).shape)
    else:
        values = [value(node.row) for node in nodes]
        parts = running(values, [n.output for n in nodes], [n.weight for n in nodes], count)
    parts = parts if carried is None else parts + carried
    if not (problem.ts.requires_grad and torch.is_grad_enabled()):
        return list(parts)
    # The ends of an integral move with the times; what events move is nothing of these.
    shifts = problem.ts - problem.ts.detach()
    # Of a piece after an event, the first time is that of the event.
    pairs = zip(trajectory.wanted, shifts if carried is None else shifts[1:], strict=False)
    ends = [
        shifted(part, value(row), shift) for part, (row, shift) in zip(parts, pairs, strict=False)
    ]
    whole = [*ends, parts[-1]]
    return whole if carried is not None else [shifted(x, value(0), -shifts[0]) for x in whole]


def _state(whole: Whole, problem: Problem, trajectory: Trajectory) -> State:
    end = trajectory.end or End(None, None, None)
    row, t = -1, problem.times[-1]
    if whole.status is Status.EVENT:
        row, t = trajectory.events[-1][0], trajectory.times[trajectory.events[-1][0]]
        # The carry is that of the end of the step within which the event lies.
        end = end._replace(carry=None)
    y = problem.layout.unpack(problem.field.seen(trajectory.ys[row]))
    return State(y, t, *end)
