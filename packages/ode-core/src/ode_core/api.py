"""The front door: checks what was given, turns names into objects, and hands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ode_core import registry
from ode_core.control import FixedSteps, PIDController
from ode_core.errors import ArgumentError, SolveError
from ode_core.problem import Layout, Problem
from ode_core.protocols import Controller, GradientMethod, Plan, Solver
from ode_core.solution import Solution, Status, Trajectory, step_log
from ode_core.timegrad import move_outputs, move_start
from ode_core.tolerance import NORM, Tolerance

DEFAULT_SOLVER = "dopri5"
DEFAULT_GRADIENT = "direct"
DEFAULT_RTOL = 1e-5
DEFAULT_ATOL = 1e-6


def solve(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *,
    solver: str | Solver = DEFAULT_SOLVER,
    gradient: str | GradientMethod = DEFAULT_GRADIENT,
    rtol: float | Any | None = None,
    atol: float | Any | None = None,
    dt: float | None = None,
    controller: Controller | FixedSteps | None = None,
    max_steps: int = 100_000,
    args: tuple[Any, ...] = (),
    jump_times: Tensor | Sequence[float] | None = None,
    dense: bool = False,
    record_steps: bool = False,
    time_dtype: torch.dtype | None = None,
    on_failure: str = "raise",
) -> Solution:
    """Solve dy/dt = f(t, y), y(t[0]) = y0, and return the states at the times `t`.

    Args:
        f: `f(t, y, *args) -> dy/dt`; `t` is a 0-d tensor, `y` and the result have the structure,
            shapes and dtype of `y0`.
        y0: a floating-point or complex tensor of any shape, or a tuple, list or dict of tensors of
            one dtype on one device.
        t: `[T]`, T at least 1, rising or falling; the first is the time of `y0`. The clock is
            float64 whatever the state is.
        solver: a registered name or a Solver.
        gradient: a registered name or a GradientMethod.
        rtol: relative tolerance of an adaptive solve, a number or something that broadcasts to the
            state, or a matching structure; default 1e-5.
        atol: absolute tolerance, likewise; default 1e-6.
        dt: step of a fixed-step solve (the last one shorter), or first step of an adaptive one.
        controller: a Controller in place of the default, or FixedSteps for an adaptive solver.
        max_steps: most attempted steps.
        args: handed on to `f`; gradients flow into tensors in it.
        jump_times: `[J]` times where `f` is not smooth; steps end there and begin anew after it.
        dense: keep what `solution.interpolate` needs.
        record_steps: keep every attempted step in `solution.steps`.
        time_dtype: dtype in which `f` receives `t`; default: the state's real dtype.
        on_failure: "raise", or "return" for a solution with its status and NaN after the failure.

    Raises:
        ArgumentError: for an argument, or a combination of them, that cannot be used.
        UnknownNameError: for a solver or gradient that no installed package registers.
        SolveError: where the solve cannot be finished; it carries the partial solution.

    """
    if on_failure not in ("raise", "return"):
        raise ArgumentError(f"on_failure is 'raise' or 'return'; got {on_failure!r}")
    problem = Problem.build(f, y0, t, args=args, jump_times=jump_times, time_dtype=time_dtype)
    stepper: Solver = registry.solvers.create(solver) if isinstance(solver, str) else solver
    method: GradientMethod = (
        registry.gradients.create(gradient) if isinstance(gradient, str) else gradient
    )
    _check_objects(stepper, method)
    plan = _plan(
        stepper,
        controller,
        problem.layout,
        rtol,
        atol,
        dt=dt,
        max_steps=max_steps,
        dense=dense,
        record_steps=record_steps,
    )
    method.check(problem, plan)
    trajectory = _solved(problem, plan, method)
    solution = _solution(problem, plan, method, trajectory, t)
    if trajectory.status is not Status.SUCCESS and on_failure == "raise":
        raise SolveError(_failure(problem, plan, trajectory), solution)
    return solution


def _check_objects(solver: Any, gradient: Any) -> None:
    if not isinstance(solver, Solver):
        raise ArgumentError(
            f"solver is a registered name or an object with init and step; got {solver!r:.60}"
        )
    if not isinstance(gradient, GradientMethod):
        raise ArgumentError(
            f"gradient is a registered name or an object with check and solve; got {gradient!r:.60}"
        )


def _plan(
    solver: Solver,
    controller: Controller | FixedSteps | None,
    layout: Layout,
    rtol: Any,
    atol: Any,
    *,
    dt: float | None,
    max_steps: int,
    dense: bool,
    record_steps: bool,
) -> Plan:
    if dt is not None and not (isinstance(dt, int | float) and 0.0 < dt < float("inf")):
        raise ArgumentError(f"dt is a positive number, whichever way time runs; got {dt!r}")
    if max_steps < 1:
        raise ArgumentError(f"max_steps is at least 1; got {max_steps}")
    chosen = controller or (PIDController() if solver.adaptive else FixedSteps())
    fixed = isinstance(chosen, FixedSteps)
    if fixed and (rtol is not None or atol is not None):
        raise ArgumentError(
            f"rtol and atol have no effect on {solver.name} with fixed steps; drop them"
            + ("" if solver.adaptive else ", or take an adaptive solver such as 'dopri5'")
        )
    if not fixed and not solver.adaptive:
        raise ArgumentError(
            f"{solver.name} has no error estimate for a controller to work with; "
            "pass dt=... instead, or take an adaptive solver such as 'dopri5'"
        )
    if isinstance(chosen, FixedSteps) and (chosen.grid is None) == (dt is None):
        raise ArgumentError(
            f"{solver.name} takes fixed steps: pass dt=..."
            + (
                ", or FixedSteps(grid=...), but not both"
                if dt is not None
                else ", or controller=FixedSteps(grid=...)"
            )
        )
    tolerance = None if fixed else _tolerance(layout, rtol, atol)
    return Plan(solver, chosen, tolerance, dt, max_steps, dense, record_steps)


def _tolerance(layout: Layout, rtol: Any, atol: Any) -> Tolerance:
    return Tolerance(
        _allowed(layout, DEFAULT_RTOL if rtol is None else rtol, "rtol"),
        _allowed(layout, DEFAULT_ATOL if atol is None else atol, "atol"),
    )


def _allowed(layout: Layout, value: Any, name: str) -> float | Tensor:
    if isinstance(value, int | float):
        if not 0.0 <= value < float("inf"):
            raise ArgumentError(f"{name} is a number from 0; got {value}")
        return float(value)
    if isinstance(value, Tensor):
        if value.numel() == 1 and layout.spec is not None:
            return float(value)
        fits = layout.spec is None and _broadcasts(value.shape, layout.shapes[0])
        if not fits:
            shape = tuple(layout.shapes[0]) if layout.spec is None else "the structure of y0"
            raise ArgumentError(f"{name} broadcasts to {shape}; got shape {tuple(value.shape)}")
        return value.detach()
    leaves = torch.utils._pytree.tree_leaves(value)
    if layout.spec is None or len(leaves) != len(layout.shapes):
        raise ArgumentError(
            f"{name} is a number, a tensor, or has the structure of y0; got {value!r:.60}"
        )
    parts = [
        torch.as_tensor(leaf).expand(shape).reshape(-1)
        for leaf, shape in zip(leaves, layout.shapes, strict=True)
    ]
    return torch.cat(parts)


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    try:
        return bool(torch.broadcast_shapes(shape, target) == target)
    except RuntimeError:
        return False


def _solved(problem: Problem, plan: Plan, method: GradientMethod) -> Trajectory:
    own_times = getattr(method, "differentiates_time", False)
    if not (problem.ts.requires_grad and torch.is_grad_enabled()) or own_times:
        return method.solve(problem, plan)
    moved = dataclasses.replace(problem, y0=move_start(problem))
    trajectory = method.solve(moved, plan)
    trajectory.ys = move_outputs(problem, trajectory.ys)
    return trajectory


def _solution(
    problem: Problem, plan: Plan, method: GradientMethod, trajectory: Trajectory, t: Any
) -> Solution:
    carried = method.name == DEFAULT_GRADIENT or not trajectory.ys.requires_grad
    layout = problem.layout
    if plan.tolerance is None:
        decided = "given steps"
    else:
        estimate = getattr(plan.solver, "error_estimate", "error estimate of " + plan.solver.name)
        decided = f"{estimate}; {NORM}"
    return Solution(
        ts=t if isinstance(t, Tensor) else problem.ts,
        ys=layout.unpack(trajectory.ys, 1),
        stats=trajectory.stats,
        status=trajectory.status,
        decided_by=decided,
        steps=step_log(trajectory.attempts) if plan.record_steps else None,
        pieces=tuple(trajectory.pieces) if plan.dense else None,
        unpack=_Unpack(layout),
        undifferentiable=""
        if carried
        else f"interpolate carries no gradient with gradient={method.name!r}; call it under "
        "torch.no_grad(), or take gradient='direct'",
    )


@dataclasses.dataclass(frozen=True)
class _Unpack:
    """Restores the user's structure; an object and not a closure, so that solutions pickle."""

    layout: Layout

    def __call__(self, states: Tensor) -> Any:
        return self.layout.unpack(states, 0 if self.layout.spec is None else states.dim() - 1)


def _failure(problem: Problem, plan: Plan, trajectory: Trajectory) -> str:
    stats = trajectory.stats
    return (
        f"{plan.solver.name} stopped at t = {trajectory.stopped_at:.6g} on the way from "
        f"{problem.times[0]:.6g} to {problem.times[-1]:.6g} after {stats.accepted} accepted and "
        f"{stats.rejected} rejected steps: it {trajectory.status.value}"
    )
