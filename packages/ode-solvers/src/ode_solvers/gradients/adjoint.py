"""The continuous adjoint: state, adjoint and parameter gradient solved backwards as one system."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ode_core import (
    ArgumentError,
    FixedSteps,
    OdeError,
    PIDController,
    SolveError,
    Tolerance,
    solvers,
)
from ode_core.attach import attach
from ode_core.capture import Watched
from ode_core.loops.march import Log, Stop, march
from ode_core.loops.outputs import forward, stops_of
from ode_core.planning import DEFAULT_ATOL, DEFAULT_RTOL
from ode_core.solution import Status
from ode_solvers.gradients.augmented import Augmented

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ode_core import Plan, Solver
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem
    from ode_core.solution import Trajectory


@dataclass(frozen=True)
class Adjoint:
    """Gradients from the adjoint ODE: memory does not grow with the steps, exactness does not hold.

    Backwards from t1, [y, a, g] obeys y' = f, a' = -a df/dy, g' = -a df/dtheta; a jumps by the
    loss's gradient at every output, where y is set to the stored state. The gradient is that of
    the continuous problem: it converges with the tolerance and can be far off with few, large
    steps. `solver`, `rtol` and `atol` default to those of the forward solve; fixed steps, and a
    solver without an error estimate, go back over the nodes of the forward solve.

    `norm="semi"` leaves g out of the error control, which the other two do not depend on: fewer
    steps. `parameters` are the tensors that get gradients beside y0 and the times; by default they
    are found by watching f. `backward(adjoint, plan, times)` may replace the plan of the backward
    solve from the last of the forward `times` to the first, whose state `adjoint` packs.

    Source: Chen et al., Neural ordinary differential equations, NeurIPS 2018, algorithm 1; Kidger,
    Chen, Lyons, "Hey, that's not an ODE", ICML 2021, for the seminorm.
    """

    solver: Solver | str | None = None
    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    norm: str = "full"
    parameters: tuple[Tensor, ...] | None = field(default=None, compare=False)
    backward: Callable[[Augmented, Plan, tuple[float, ...]], Plan] | None = None
    name: str = "adjoint"
    exact: bool = False
    differentiates_time: bool = True

    def __post_init__(self) -> None:
        if self.norm not in ("full", "semi"):
            raise ArgumentError(f"Adjoint takes norm='full' or norm='semi'; got {self.norm!r:.60}")

    def check(self, problem: Problem, plan: Plan) -> None:
        """Refuse tolerances for a backward solve with fixed steps."""
        del problem
        given = self.rtol is not None or self.atol is not None
        if given and self._plan(plan).tolerance is None:
            raise ArgumentError(
                "Adjoint(rtol=..., atol=...) have no effect on a backward solve with fixed steps; "
                "drop them, or give Adjoint an adaptive solver"
            )

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve without a graph and attach the backward solve."""
        if not torch.is_grad_enabled():
            return forward(problem, plan)
        watched = Watched(problem.field) if self.parameters is None else None
        nodes = [problem.times[0]]

        def keep(accepted: Accepted, outputs: list[int]) -> None:
            del outputs
            nodes.append(accepted.t1)

        detached = replace(problem, y0=problem.y0.detach())
        with torch.no_grad():
            trajectory = forward(detached, plan, on_step=keep, watched=watched)
        if trajectory.status.failed:
            return trajectory
        problem = problem.at(trajectory.times, trajectory.wanted)
        pull = _Backward(problem, self._plan(plan), _until(nodes, problem.times[-1]), self)
        tensors = watched.tensors if watched is not None else self.parameters or ()
        if problem.ts.requires_grad:
            tensors = (*tensors, problem.ts)
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, tensors)
        return trajectory

    def _plan(self, plan: Plan) -> Plan:
        """Return the plan of the backward solve; its first step is sought anew."""
        own = solvers.create(self.solver) if isinstance(self.solver, str) else self.solver
        solver = plan.solver if own is None else own
        given = self.rtol is not None or self.atol is not None
        tolerance, controller = plan.tolerance, plan.controller
        if not solver.adaptive:
            tolerance = None
        elif given:
            rtol, atol = (
                (DEFAULT_RTOL, DEFAULT_ATOL)
                if tolerance is None
                else (tolerance.rtol, tolerance.atol)
            )
            tolerance = Tolerance(
                rtol if self.rtol is None else self.rtol, atol if self.atol is None else self.atol
            )
            controller = PIDController() if isinstance(controller, FixedSteps) else controller
        return replace(
            plan,
            solver=solver,
            controller=controller,
            tolerance=tolerance,
            dt=None,
            dense=False,
            record_steps=False,
        )


@dataclass(frozen=True)
class _Backward:
    """The backward pass of one solve."""

    problem: Problem
    plan: Plan
    nodes: tuple[float, ...]
    method: Adjoint

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        problem = self.problem
        field, times = problem.field, problem.times
        calls = field.calls
        timed = problem.ts.requires_grad
        parameters = tensors[:-1] if timed else tensors
        still = times.count(times[0])
        adjoint = Augmented(field, y0, parameters, timed=timed)
        grad_ts = torch.zeros(len(times), dtype=torch.float64)
        for index in range(still, len(times)) if timed else ():
            slope = field(times[index], ys[index])
            grad_ts[index] = torch.sum(grad_ys[index].conj() * slope).real
        if still == len(times):
            return grad_ys.sum(0), [None] * len(tensors)
        packed = self._march(adjoint, grad_ys, ys, still)
        _, grad_y0, grads, along = adjoint.unpack(packed)
        grad_y0 = grad_y0 + grad_ys[:still].sum(0)
        problem.stats.backward_f_calls += field.calls - calls
        field.forget()
        if timed:
            # Shifting all times together changes only what f is told: the sum of all their
            # gradients is the integral of a df/dt.
            grad_ts[0] = along - grad_ts.sum()
            grads = [*grads, grad_ts.to(problem.ts.device)]
        return grad_y0, grads

    def _march(self, adjoint: Augmented, grad_ys: Tensor, ys: Tensor, still: int) -> Tensor:
        """Return the packed state at t0, every output's gradient added on the way."""
        times = self.problem.times
        # Outputs at one time act together.
        impulses: dict[float, Tensor] = {}
        stored: dict[float, Tensor] = {}
        jumps = [stop for stop in stops_of(self.problem) if stop.end != stop.resume]
        for index in range(still, len(times)):
            t = _before_jump(times[index], jumps, self.problem.direction)
            impulses[t] = impulses[t] + grad_ys[index] if t in impulses else grad_ys[index]
            stored[t] = ys[index]
        log = Log()
        state = adjoint.pack(stored[times[-1]], impulses[times[-1]])
        plan = self._plan(adjoint)
        steps = march(adjoint, state, times[-1], self._stops(impulses, jumps), plan, log)
        sent: Tensor | None = None
        while True:
            try:
                accepted = steps.send(sent) if sent is not None else next(steps)
            except StopIteration:
                break
            state, sent = accepted.step.y, None
            if accepted.until in impulses:
                t = accepted.until
                state = sent = adjoint.impulse(state, stored[t], impulses[t])
        if log.status is not Status.SUCCESS:
            raise _lost(log, self.plan, times)
        return state

    def _plan(self, adjoint: Augmented) -> Plan:
        plan = self.plan
        if plan.tolerance is None:
            plan = replace(plan, controller=FixedSteps(self.nodes[::-1]), dt=None)
        else:
            semi = self.method.norm == "semi"
            plan = replace(plan, tolerance=adjoint.tolerance(plan.tolerance, semi=semi))
        if self.method.backward is None:
            return plan
        return self.method.backward(adjoint, plan, self.problem.times)

    def _stops(self, impulses: dict[float, Tensor], jumps: Sequence[Stop]) -> list[Stop]:
        """Return where the backward steps must end: outputs, the far sides of jumps, and t0."""
        start, last = self.problem.times[0], self.problem.times[-1]
        reached = {jump.end for jump in jumps} | {last}
        stops = {t: Stop(t, t) for t in (*impulses, start) if t not in reached}
        stops |= {jump.resume: Stop(jump.resume, jump.end) for jump in jumps}
        return [stops[t] for t in sorted(stops, reverse=last > start)]


def _until(nodes: Sequence[float], end: float) -> tuple[float, ...]:
    """Return the nodes of a solve that an event may have ended within its last step."""
    sign = 1.0 if nodes[-1] >= nodes[0] else -1.0
    return (*(node for node in nodes if (node - end) * sign < 0.0), end)


def _before_jump(t: float, jumps: Sequence[Stop], direction: float) -> float:
    """Return the time of the state that was stored for an output: the near side of a jump."""
    for jump in jumps:
        if direction * jump.end < direction * t <= direction * jump.resume:
            return jump.end
    return t


def _lost(log: Log, plan: Plan, times: tuple[float, ...]) -> OdeError:
    return SolveError(
        f"the backward solve of gradient='adjoint' by {plan.solver.name} stopped at "
        f"t = {log.stopped_at:.6g} on the way from {times[-1]:.6g} to {times[0]:.6g}: it "
        f"{log.status.value}; gradient='checkpoint' needs no backward solve"
    )
