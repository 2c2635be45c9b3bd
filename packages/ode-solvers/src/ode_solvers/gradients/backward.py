"""The backward solve of a continuous adjoint: one march, to which outputs add impulses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeGuard

import torch

from ode_core import FixedSteps, SolveError, Tolerance
from ode_core.interpolation import interpolant
from ode_core.loops.march import Again, Log, Stop, march
from ode_core.loops.outputs import stops_of
from ode_core.solution import Status
from ode_solvers.explicit import RungeKutta
from ode_solvers.gradients.augmented import Augmented
from ode_solvers.gradients.pair import Pair
from ode_solvers.gradients.quadrature import ByNodes
from ode_solvers.gradients.stages import ByStages
from ode_solvers.gradients.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan, Solver
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem
    from ode_core.solution import Trajectory
    from ode_solvers.gradients.anchors import Belt
    from ode_solvers.gradients.augmented import Field, Path

System = Augmented | Pair
"""What is solved backwards; explicit methods advance a pair of states."""

# Beyond these parts of a step two times are the same, and a state is at a step's end.
_SLIVER, _NEAR = 1e-9, 1e-6


@dataclass(frozen=True, eq=False)
class Backward:
    """A backward solve from the last output to the start.

    Where `belt` is given the solve's own states are held against the stored ones.
    """

    problem: Problem
    plan: Plan
    name: str
    belt: Belt | None = None

    def run(
        self, adjoint: System, totals: Totals | None, grad_ys: Tensor, ys: Tensor, still: int
    ) -> Tensor:
        """Return the packed state at t0, the gradient of every output added on the way.

        `still` outputs at the start have nothing to go back over. What the steps say about the
        parameters of `totals` is added to it. Raises SolveError where the solve cannot be finished.
        """
        times = self.problem.times
        jumps = [stop for stop in stops_of(self.problem) if stop.end != stop.resume]
        impulses, stored = self._outputs(grad_ys, ys, still, jumps)
        last = times[-1]
        state = adjoint.pack(stored[last], impulses.pop(last, torch.zeros_like(stored[last])))
        stops = self._stops(impulses, jumps)
        solver = self._summing(totals, stops)
        plan = replace(self.plan, solver=solver)
        if isinstance(solver, ByStages) and isinstance(adjoint, Pair) and plan.dt is not None:
            plan = replace(plan, start=solver.begin(adjoint, last, state, plan.dt))
        log = Log()
        steps = march(adjoint, state, last, stops, plan, log)
        visit = _Visit(self, solver, adjoint, {t: stored[t] for t in impulses})
        accepted = next(steps, None)
        while accepted is not None:
            sent: Tensor | Again | None = visit.look(accepted)
            if not isinstance(sent, Again):
                state = accepted.step.y if sent is None else sent
                if totals is not None:
                    totals.accept()
                if accepted.until in impulses:
                    t = accepted.until
                    state = sent = adjoint.impulse(state, stored[t], impulses[t])
            try:
                accepted = steps.send(sent)
            except StopIteration:
                accepted = None
        if log.status is not Status.SUCCESS:
            raise self._lost(log)
        return state

    def _summing(self, totals: Totals | None, stops: Sequence[Stop]) -> Solver:
        """Return the plan's solver, which also sums up the parameters' gradient."""
        solver, tolerance = self.plan.solver, self.plan.tolerance
        if totals is None:
            return solver
        # On the loop's clock such a step may be somewhat longer.
        least = 2.0 * getattr(self.plan.controller, "dt_min", 0.0)
        if _by_stages(solver):
            within = tolerance and Tolerance(tolerance.rtol, tolerance.atol)
            ends = frozenset(stop.end for stop in stops)
            return ByStages(solver, totals, within, least, ends)
        return ByNodes(solver, totals, least)

    def _outputs(
        self, grad_ys: Tensor, ys: Tensor, still: int, jumps: Sequence[Stop]
    ) -> tuple[dict[float, Tensor], dict[float, Tensor]]:
        """Return gradients and states by time: outputs at one time act together.

        One whose gradient is zero is no place to stop at.
        """
        impulses: dict[float, Tensor] = {}
        stored: dict[float, Tensor] = {}
        asked = (grad_ys.reshape(len(grad_ys), -1) != 0).any(1).tolist()
        for index in range(still, len(self.problem.times)):
            t = _before_jump(self.problem.times[index], jumps, self.problem.direction)
            stored[t] = ys[index]
            if asked[index]:
                impulses[t] = impulses[t] + grad_ys[index] if t in impulses else grad_ys[index]
        return impulses, stored

    def _stops(self, impulses: dict[float, Tensor], jumps: Sequence[Stop]) -> list[Stop]:
        """Return where the backward steps must end: impulses, the far sides of jumps, and t0."""
        start, last = self.problem.times[0], self.problem.times[-1]
        reached = {jump.end for jump in jumps} | {last}
        stops = {t: Stop(t, t) for t in (*impulses, start) if t not in reached}
        stops |= {jump.resume: Stop(jump.resume, jump.end) for jump in jumps}
        return [stops[t] for t in sorted(stops, reverse=last > start)]

    def _lost(self, log: Log) -> SolveError:
        times = self.problem.times
        return SolveError(
            f"the backward solve of gradient={self.name!r} by {self.plan.solver.name} stopped at "
            f"t = {log.stopped_at:.6g} on the way from {times[-1]:.6g} to {times[0]:.6g}: it "
            f"{log.status.value}; gradient='checkpoint' needs no backward solve"
        )


class _Visit:
    """Holds the states of a backward solve against the stored ones that its steps pass."""

    def __init__(
        self, backward: Backward, solver: Solver, adjoint: System, stops: dict[float, Tensor]
    ) -> None:
        self._belt, self._adjoint, self._solver = backward.belt, adjoint, solver
        self._chosen = not isinstance(backward.plan.controller, FixedSteps)
        self._sign = -backward.problem.direction
        last = backward.problem.times[-1]
        held = {} if self._belt is None else self._belt.states | stops
        self._places = sorted(
            ((t, y) for t, y in held.items() if self._sign * (t - last) > 0.0),
            key=lambda place: self._sign * place[0],
        )

    def look(self, accepted: Accepted) -> Tensor | Again | None:
        """Return the state set anew where it has left a stored one, or what leads a step there."""
        belt, t0, length = self._belt, accepted.t0, accepted.t1 - accepted.t0
        at = None
        while belt is not None and self._places:
            t, stored = self._places[0]
            if self._sign * (t - accepted.t1) > _SLIVER * abs(length):
                return None
            state = accepted.step.y
            ends = abs(t - accepted.t1) <= _NEAR * abs(length)
            if not ends:
                at = at or interpolant(
                    self._solver, self._adjoint, accepted.span, accepted.y0, accepted.step
                )
                state = at((t - t0) / length)
            rebuilt = self._adjoint.rebuilt(state)
            left = rebuilt is not None and belt.left(t, rebuilt, stored, within=not ends)
            if left and not ends and self._chosen:
                return Again((t - t0) / length)
            self._places.pop(0)
            if left and ends:
                return self._adjoint.anchored(state, stored)
        return None


def system(
    field: Field,
    y0: Tensor,
    parameters: tuple[Tensor, ...],
    plan: Plan,
    *,
    inside: bool,
    semi: bool,
    timed: bool,
    path: Path | None = None,
) -> tuple[System, Totals | None]:
    """Return the system to solve backwards, and the sums that stand outside of its state.

    The parameters' gradient is `inside` where a solver has to see it.
    """
    if inside:
        return Augmented(field, y0, parameters, timed=timed, path=path), None
    if not _by_stages(plan.solver):
        totals = Totals(parameters, y0, plan.tolerance, semi=semi)
        return Augmented(field, y0, (), timed=timed, path=path), totals
    totals = Totals(parameters, y0, plan.tolerance, semi=semi, timed=timed)
    return Pair(field, y0, parameters, timed=timed, path=path), totals


def _by_stages(solver: Solver) -> TypeGuard[RungeKutta]:
    """Return whether a method's own weights can do the sums: its steps are those of a tableau."""
    return isinstance(solver, RungeKutta) and type(solver).step is RungeKutta.step


def pulled(
    back: Backward,
    adjoint: System,
    totals: Totals | None,
    known: tuple[Tensor, Tensor, Tensor],
    *,
    timed: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the gradients of y0, of the parameters and, if `timed`, of the times.

    `known` are the outputs' gradients and states, `[T, ...]`, and the start.
    """
    problem, (grad_ys, ys, y0) = back.problem, known
    field, times = problem.field, problem.times
    calls = field.calls
    still = times.count(times[0])
    grad_ts = torch.zeros(len(times), dtype=torch.float64)
    for index in range(still, len(times)) if timed else ():
        slope = adjoint.field(times[index], ys[index])
        grad_ts[index] = torch.sum(grad_ys[index].conj() * slope).real
    grad_y0, along = grad_ys[:still].sum(0), torch.zeros(())
    grads: list[Tensor | None] = []
    if still == len(times):
        packed = adjoint.pack(y0, torch.zeros_like(y0))
    else:
        packed = back.run(adjoint, totals, grad_ys, ys, still)
    _, a, grads[:], along = adjoint.unpack(packed)
    if totals is not None:
        grads += totals.gradients()
        along = along + totals.along
    problem.stats.backward_f_calls += field.calls - calls
    field.forget()
    if timed:
        # Shifting all times together changes only what f is told: the sum of all their
        # gradients is the integral of a df/dt.
        grad_ts[0] = along - grad_ts.sum()
        grads.append(grad_ts.to(problem.ts.device))
    return grad_y0 + a, grads


def following(back: Plan, plan: Plan, trajectory: Trajectory) -> Plan:
    """Return the plan of a backward solve with a first step such as the forward solve ended with.

    Where both solves do not choose their steps alike it is sought anew.
    """
    alike = back.solver is plan.solver and back.tolerance is plan.tolerance is not None
    if trajectory.end is None or not alike or getattr(back.solver, "chooses_steps", False):
        return back
    return replace(back, dt=trajectory.end.dt)


def packed_plan(plan: Plan, adjoint: System, nodes: tuple[float, ...], *, semi: bool) -> Plan:
    """Return a plan for the packed state: its tolerance, or the forward solve's nodes back."""
    if plan.tolerance is None:
        return replace(plan, controller=FixedSteps(nodes[::-1]), dt=None)
    return replace(plan, tolerance=adjoint.tolerance(plan.tolerance, semi=semi))


def until(nodes: Sequence[float], end: float) -> tuple[float, ...]:
    """Return the nodes of a solve that an event may have ended within its last step."""
    sign = 1.0 if nodes[-1] >= nodes[0] else -1.0
    return (*(node for node in nodes if (node - end) * sign < 0.0), end)


def _before_jump(t: float, jumps: Sequence[Stop], direction: float) -> float:
    """Return the time of the state that was stored for an output: the near side of a jump."""
    for jump in jumps:
        if direction * jump.end < direction * t <= direction * jump.resume:
            return jump.end
    return t
