"""The continuous adjoint: state, adjoint and parameter gradient solved backwards as one system."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ode_core import ArgumentError, FixedSteps, OdeError, SolveError, Tolerance, solvers
from ode_core.attach import attach
from ode_core.capture import Watched
from ode_core.loops.march import Log, Stop, march
from ode_core.loops.outputs import forward, stops_of
from ode_core.solution import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Plan, Solver
    from ode_core.field import Field
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem
    from ode_core.solution import Trajectory


@dataclass(frozen=True)
class Adjoint:
    """Gradients from the adjoint ODE: memory does not grow with the steps, exactness does not hold.

    Backwards from t1, [y, a, g] obeys y' = f, a' = -a df/dy, g' = -a df/dtheta; a jumps by the
    loss's gradient at every output, where y is set to the stored state. The gradient is that of
    the continuous problem: it converges with the tolerance and can be far off with few, large
    steps. `solver`, `rtol` and `atol` default to those of the forward solve; fixed steps go back
    over the same nodes.

    Source: Chen et al., Neural ordinary differential equations, NeurIPS 2018, algorithm 1.
    """

    solver: Solver | str | None = None
    rtol: float | None = None
    atol: float | None = None
    name: str = "adjoint"
    exact: bool = False
    differentiates_time: bool = True

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
        watched = Watched(problem.field)
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
        pull = _Backward(problem, self._plan(plan), _until(nodes, problem.times[-1]))
        tensors = watched.tensors
        if problem.ts.requires_grad:
            tensors = (*tensors, problem.ts)
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, tensors)
        return trajectory

    def _plan(self, plan: Plan) -> Plan:
        """Return the plan of the backward solve; its first step is sought anew."""
        own = solvers.create(self.solver) if isinstance(self.solver, str) else self.solver
        solver = plan.solver if own is None else own
        tolerance = plan.tolerance
        if tolerance is not None and (self.rtol is not None or self.atol is not None):
            tolerance = Tolerance(
                tolerance.rtol if self.rtol is None else self.rtol,
                tolerance.atol if self.atol is None else self.atol,
            )
        dt = plan.dt if isinstance(plan.controller, FixedSteps) else None
        return replace(
            plan, solver=solver, tolerance=tolerance, dt=dt, dense=False, record_steps=False
        )


@dataclass(frozen=True)
class _Backward:
    """The backward pass of one solve."""

    problem: Problem
    plan: Plan
    nodes: tuple[float, ...]

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        problem = self.problem
        field, times = problem.field, problem.times
        calls = field.calls
        timed = problem.ts.requires_grad
        parameters = tensors[:-1] if timed else tensors
        still = times.count(times[0])
        adjoint = _Augmented(field, y0, parameters, timed=timed)
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

    def _march(self, adjoint: _Augmented, grad_ys: Tensor, ys: Tensor, still: int) -> Tensor:
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
        plan = self._segmented(adjoint)
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

    def _segmented(self, adjoint: _Augmented) -> Plan:
        plan = self.plan
        if plan.tolerance is not None:
            return replace(plan, tolerance=adjoint.tolerance(plan.tolerance))
        return replace(plan, controller=FixedSteps(self.nodes[::-1]), dt=None)

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


class _Augmented:
    """The field of [y, a, g] and, where times get gradients, of the integral of a df/dt.

    Packed as one flat real vector: complex states as pairs, parameters in the state's real dtype.
    """

    def __init__(
        self, field: Field, y0: Tensor, parameters: tuple[Tensor, ...], *, timed: bool
    ) -> None:
        self._field = field
        self._like = y0
        self._parameters = parameters
        self._timed = timed
        self._complex = y0.is_complex()
        size = y0.numel() * (2 if self._complex else 1)
        self._real = [p.numel() * (2 if p.is_complex() else 1) for p in parameters]
        self.segments = tuple(n for n in (size, size, sum(self._real), 1 if timed else 0) if n > 0)
        self._size = size

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """Return the state at an output where nothing has been integrated yet."""
        head = torch.cat([self._flat(y), self._flat(a)])
        return torch.cat([head, head.new_zeros(sum(self.segments) - 2 * self._size)])

    def impulse(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """Return the state with y set anew and `a` added to the adjoint."""
        size = self._size
        adjoint = state[size : 2 * size] + self._flat(a)
        return torch.cat([self._flat(y), adjoint, state[2 * size :]])

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return y, a, the parameters' gradients in their own dtypes, and the integral over t."""
        size = self._size
        y = self._shaped(state[:size])
        a = self._shaped(state[size : 2 * size])
        end = 2 * size + sum(self._real)
        parts = state[2 * size : end].split(self._real) if self._real else ()
        grads = [
            _like(part, parameter) for part, parameter in zip(parts, self._parameters, strict=True)
        ]
        return y, a, grads, state[end:].sum()

    def tolerance(self, forward_tolerance: Tolerance) -> Tolerance:
        """Return the forward tolerance for the packed state, the norm being the largest block's."""
        rtol, atol = (self._spread(x) for x in (forward_tolerance.rtol, forward_tolerance.atol))
        return Tolerance(rtol, atol, self.segments)

    def __call__(self, t: float, state: Tensor) -> Tensor:
        """Return the derivative of the packed state; one evaluation of f and one product with its
        Jacobian."""
        y, a = self._halves(state)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            time = torch.tensor(t, dtype=torch.float64, device=y.device, requires_grad=self._timed)
            slope = self._field(time if self._timed else t, y)
            inputs = [y, *self._parameters, *([time] if self._timed else [])]
            pulled: Sequence[Tensor | None] = [None] * len(inputs)
            if slope.requires_grad:
                pulled = torch.autograd.grad(slope, inputs, a, allow_unused=True)
        pieces = [self._flat(slope.detach())]
        pieces += [
            self._flat(torch.zeros_like(x) if g is None else g).neg()
            for x, g in zip(inputs, pulled, strict=True)
        ]
        return torch.cat(pieces)

    def _halves(self, state: Tensor) -> tuple[Tensor, Tensor]:
        size = self._size
        return self._shaped(state[:size]), self._shaped(state[size : 2 * size])

    def _flat(self, x: Tensor) -> Tensor:
        x = x.detach()
        real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        return real.reshape(-1).to(self._like.dtype.to_real())

    def _shaped(self, flat: Tensor) -> Tensor:
        if self._complex:
            flat = torch.view_as_complex(flat.reshape(-1, 2))
        return flat.reshape(self._like.shape)

    def _spread(self, value: float | Tensor) -> float | Tensor:
        """Return a tolerance for the packed state; other blocks than the state get its median."""
        if not isinstance(value, torch.Tensor):
            return value
        whole = self._flat(
            value.expand(self._like.shape)
            if not self._complex
            else torch.complex(value, value).expand(self._like.shape)
        )
        rest = sum(self.segments) - 2 * self._size
        return torch.cat([whole, whole, whole.median().expand(rest)])


def _like(part: Tensor, parameter: Tensor) -> Tensor:
    if parameter.is_complex():
        part = torch.view_as_complex(part.reshape(-1, 2))
    return part.reshape(parameter.shape).to(parameter.dtype)
