"""From what the user asked for to a plan: objects for names, tolerances that can be held."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ode_core.control import FixedSteps, PIDController
from ode_core.errors import ArgumentError, PrecisionWarning, UnsupportedError
from ode_core.loops.graphs import as_graph
from ode_core.protocols import Controller, GradientMethod, Plan, Solver
from ode_core.samples import SampleProblem
from ode_core.tolerance import SampleTolerance, Tolerance

if TYPE_CHECKING:
    from ode_core.layout import Layout
    from ode_core.problem import Problem
    from ode_core.solution import State

DEFAULT_RTOL = 1e-5
DEFAULT_ATOL = 1e-6


@dataclass(frozen=True)
class Asked:
    """What the user asked of the solver, as it was given."""

    controller: Controller | FixedSteps | None
    rtol: Any
    atol: Any
    dt: Any
    max_steps: int
    dense: bool
    record_steps: bool
    start: State | None
    graph: Any = False


def make_plan(solver: Solver, problem: Problem | SampleProblem, asked: Asked) -> Plan:
    """Return the plan; raises ArgumentError for what does not go together."""
    dt = _step_size(asked.dt, problem)
    if not isinstance(asked.max_steps, int) or asked.max_steps < 1:
        raise ArgumentError(f"max_steps is a whole number from 1; got {asked.max_steps}")
    chosen = asked.controller or (PIDController() if solver.adaptive else FixedSteps())
    fixed = isinstance(chosen, FixedSteps)
    if fixed and (asked.rtol is not None or asked.atol is not None):
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
    tolerance = None if fixed else _tolerance(problem, asked.rtol, asked.atol)
    return Plan(
        solver, chosen, tolerance, dt, asked.max_steps, asked.dense, asked.record_steps,
        asked.start, as_graph(asked.graph, solver, chosen, problem),
    )  # fmt: skip


def check_per_sample(solver: Solver, gradient: GradientMethod, controller: Any) -> None:
    """Raise UnsupportedError for an object that cannot take one step size a sample."""
    for what, thing in (("solver", solver), ("gradient method", gradient)):
        if not getattr(thing, "per_sample", False):
            raise UnsupportedError(
                f"the {what} {thing.name} takes shared steps only; drop stepping='per_sample', or "
                f"take another {what}"
            )
    ready = controller is None or isinstance(controller, FixedSteps)
    if not (ready or getattr(controller, "per_sample", False)):
        raise UnsupportedError(
            f"{type(controller).__name__} judges one error at a time; give it per_sample = True "
            "and a judge for [B] tensors, or drop stepping='per_sample'"
        )


def _step_size(dt: Any, problem: Problem | SampleProblem) -> Any:
    if isinstance(dt, Tensor):
        dt = dt.detach()
        if isinstance(problem, SampleProblem) and dt.shape == problem.start.shape:
            if bool(((dt > 0.0) & dt.isfinite()).all()):
                return dt.to(problem.ts.device, torch.float64)
        elif dt.numel() == 1:
            dt = float(dt)
    if dt is None:
        return None
    if not _is_number(dt) or not 0.0 < dt < math.inf:
        raise ArgumentError(f"dt is a positive number, whichever way time runs; got {dt!r}")
    return float(dt)


def _is_number(x: Any) -> bool:
    # NumPy's floats are numbers, and so, to Python, is True.
    return isinstance(x, Real) and not isinstance(x, bool)


def _tolerance(problem: Problem | SampleProblem, rtol: Any, atol: Any) -> Tolerance:
    kind = SampleTolerance if isinstance(problem, SampleProblem) else Tolerance
    relative = _allowed(problem, DEFAULT_RTOL if rtol is None else rtol, "rtol")
    absolute = _allowed(problem, DEFAULT_ATOL if atol is None else atol, "atol")
    return kind(*_above_floor(problem, relative, absolute, given=rtol is not None))


def _above_floor(
    problem: Problem | SampleProblem,
    rtol: float | Tensor,
    atol: float | Tensor,
    *,
    given: bool,
) -> tuple[float | Tensor, float | Tensor]:
    """Return tolerances that the state's dtype can hold; warn where a given one was below."""
    dtype = problem.dtype
    floor = torch.finfo(dtype).eps
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor) or rtol >= floor:
        return rtol, atol
    if rtol == 0.0 and atol == 0.0:
        raise ArgumentError("rtol and atol are both 0, which no step can meet; raise one of them")
    size = float(problem.y0.detach().abs().max()) if problem.y0.numel() else 1.0
    if atol >= floor * (size or 1.0):
        return rtol, atol
    if given:
        warnings.warn(
            f"rtol={rtol:.3g} is below {floor:.2g}, the least that {dtype} can hold, which is used "
            "instead; loosen it, or solve in a wider dtype",
            PrecisionWarning,
            stacklevel=6,
        )
    # f's own rounding error is no smaller near a zero of the solution.
    short = problem.y0.dtype != dtype
    return floor, max(atol, 0.1 * floor * size) if short else atol


def _allowed(problem: Problem | SampleProblem, value: Any, name: str) -> float | Tensor:
    if _is_number(value):
        if not 0.0 <= value < math.inf:
            raise ArgumentError(f"{name} is a number from 0; got {value}")
        return float(value)
    layout: Layout = problem.layout
    if isinstance(value, Tensor):
        if value.numel() == 1 and layout.spec is not None:
            return float(_checked(value, name))
        value = _checked(value.detach(), name)
        if isinstance(problem, SampleProblem) and value.shape == problem.start.shape:
            return cast("Tensor", value.view(-1, *(1,) * (problem.y0.dim() - 1)))
        fits = layout.spec is None and _broadcasts(value.shape, layout.shapes[0])
        if not fits:
            shape = tuple(layout.shapes[0]) if layout.spec is None else "the structure of y0"
            raise ArgumentError(f"{name} broadcasts to {shape}; got shape {tuple(value.shape)}")
        if isinstance(problem, SampleProblem):
            return cast("Tensor", value.expand(problem.y0.shape))
        return cast("Tensor", value)
    if layout.spec is None:
        raise ArgumentError(
            f"{name} is a number, a tensor, or has the structure of y0; got {value!r:.60}"
        )
    spread: list[Tensor] = []
    for leaf, shape in zip(layout.aligned(value, name), layout.shapes, strict=True):
        part = _checked(torch.as_tensor(leaf), name)
        if not _broadcasts(part.shape, shape):
            raise ArgumentError(
                f"{name} broadcasts to {tuple(shape)} there; got shape {tuple(part.shape)}"
            )
        spread.append(part.expand(shape))
    return layout.flat(spread)


def _checked(value: Tensor, name: str) -> Tensor:
    if value.dtype == torch.bool or value.is_complex() or not bool((value >= 0.0).all()):
        raise ArgumentError(f"{name} holds numbers from 0; got {value.flatten()[:6].tolist()}")
    return value


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    try:
        return bool(torch.broadcast_shapes(shape, target) == target)
    except RuntimeError:
        return False
