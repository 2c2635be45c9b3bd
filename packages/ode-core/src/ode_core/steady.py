"""Steady states: where the solution settles, and how that depends on what f depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core import registry
from ode_core.api import DEFAULT_SOLVER, solve
from ode_core.errors import ArgumentError, SolveError
from ode_core.planning import DEFAULT_ATOL, DEFAULT_RTOL
from ode_core.problem import Given, Problem, build
from ode_core.protocols import Solver
from ode_core.roots import implicit, newton
from ode_core.solution import Solution


@dataclass(frozen=True, eq=False)
class SteadyState:
    """Where a solution settles.

    `y` has the structure of `y0`; `rate` is the largest of `|f| / (|y| + atol)` there, a relative
    rate of change; `t` is the time that was integrated to, `polished` says that Newton's method
    found `y` from there. `f_calls` are all evaluations of f.
    """

    y: Any
    rate: float
    t: float
    polished: bool
    f_calls: int


def steady_state(
    f: Callable[..., Any],
    y0: Any,
    *,
    t0: float = 0.0,
    t_max: float = 1e3,
    args: tuple[Any, ...] = (),
    solver: str | Solver = DEFAULT_SOLVER,
    rtol: float = DEFAULT_RTOL,
    atol: float = DEFAULT_ATOL,
    tolerance: float | None = None,
    polish: bool = True,
) -> SteadyState:
    """Integrate dy/dt = f(t, y) from `y0` until it is at rest, and return that state.

    It rests where the largest `|f| / (|y| + atol + sqrt(eps) rms(y))`, a rate per unit of time,
    is at most `tolerance`, by default ten times the root of the dtype's eps (1.5e-7 in float64).
    With `polish`, Newton's method takes over at a rate of 1e-3, or where the state has twice in a
    row not moved by more than `atol + rtol |y|`, and goes on to rounding; where its steps do not
    halve the rate it gives way to the integration again. An unstable steady state is found only
    from itself, or from within `atol` of it; a stiff f wants an implicit solver. The state is one
    system, whatever its shape: of a batch, all rows come to rest. Where f depends on t, it is taken
    at the time reached.

    Gradients are those of the implicit function theorem, dy = -J^-1 df: nothing of the way is kept
    but one evaluation of f, and backward solves with J^T, made in full up to 256 unknowns and by
    GMRES beyond. Everything that f depends on gets one; that of `y0` is zero.

    Raises ArgumentError for what cannot be used, and SolveError where no steady state is reached
    by `t_max`, or where the backward pass meets a singular Jacobian.
    """
    stepper = registry.solvers.create(solver) if isinstance(solver, str) else solver
    if not stepper.adaptive:
        raise ArgumentError(
            f"steady_state takes an adaptive solver, such as {DEFAULT_SOLVER!r}; got {stepper.name}"
        )
    if not t_max > t0:
        raise ArgumentError(f"t_max is later than t0; got t0={t0} and t_max={t_max}")
    problem = build(f, y0, [t0, t_max], given=Given(args))
    eps = torch.finfo(problem.dtype).eps
    if eps > torch.finfo(torch.float32).eps:
        raise ArgumentError(
            f"a steady state is found in float32 or wider; got {problem.dtype}: use y0.float()"
        )
    if tolerance is None:
        tolerance = 10.0 * eps**0.5
    if not tolerance > 0.0:
        raise ArgumentError(f"tolerance is a positive number; got {tolerance}")
    way = _Way(problem, args, stepper, rtol, atol)
    with torch.no_grad():
        y, t, rate, polished = _settled(way, (t0, t_max), tolerance, polish=polish)
    y = way.differentiable(t, y)
    problem.field.forget()
    return SteadyState(problem.layout.unpack(y), rate, t, polished, way.f_calls)


def _settled(
    way: _Way, span: tuple[float, float], tolerance: float, *, polish: bool
) -> tuple[Tensor, float, float, bool]:
    """Return the packed state at rest, the time reached, its rate, and whether it was polished."""
    (t, t_max), y = span, way.problem.y0.detach()
    rate = way.rate(y, way.slope(t, y))
    goal = max(tolerance, 1e-3) if polish else tolerance
    # Twice as long each time: at most half of the way is too much.
    length = min(t_max - t, 1.0 / rate) if rate > 0.0 else 0.0
    moved, still = False, 0
    while True:
        # Twice in a row where it was before, over twice the time: what moves is the solver's error.
        if polish and (rate <= goal or still > 1):
            root, reached = way.polished(t, y)
            if reached <= tolerance:
                return root, t, reached, reached < rate
            if rate <= goal:
                goal = max(tolerance, goal / 10.0)
        if rate <= tolerance:
            return y, t, rate, False
        if t >= t_max:
            raise SolveError(
                f"no steady state by t_max = {t_max:g}: f still changes the state by {rate:.2g} of "
                f"itself per unit of time, and tolerance is {tolerance:.2g}; raise t_max or "
                "tolerance if it settles slowly, lower rtol and atol if the solver's own error is "
                "in the way; an oscillation has no steady state",
                way.last,
            )
        t1 = min(t + length, t_max)
        before, y = y, way.advance(t, t1, y)
        t, length = t1, 2.0 * length
        moved = moved or not way.unmoved(before, y) or 0.5 * length * rate > 10.0
        still = still + 1 if moved and way.unmoved(before, y) else 0
        rate = way.rate(y, way.slope(t, y))


class _Way:
    """The integration, and f as a function on `[n]` real numbers, which complex states are too."""

    def __init__(
        self, problem: Problem, args: tuple[Any, ...], solver: Solver, rtol: float, atol: float
    ) -> None:
        self.problem = problem
        self.last: Solution | None = None
        self._args, self._solver, self._rtol, self._atol = args, solver, rtol, atol
        self._calls = 0

    @property
    def f_calls(self) -> int:
        """All evaluations of f so far."""
        return self._calls + self.problem.field.calls

    def slope(self, t: float, y: Tensor) -> Tensor:
        """Return f at a time and a packed state."""
        return self.problem.field(t, y)

    def rate(self, y: Tensor, slope: Tensor) -> float:
        """Return the largest relative rate of change of an entry, per unit of time."""
        if y.numel() == 0:
            return 0.0
        size = y.abs()
        # Where an entry is nothing beside the others, rounding in f is no change.
        floor = size.square().mean().sqrt() * torch.finfo(y.dtype).eps ** 0.5 + self._atol
        return float((slope.abs() / (size + floor)).max())

    def unmoved(self, before: Tensor, after: Tensor) -> bool:
        """Return whether two states differ by no more than the solver's own error may be."""
        allowed = self._atol + self._rtol * torch.maximum(before.abs(), after.abs())
        return bool(((after - before).abs() <= allowed).all())

    def advance(self, t: float, t1: float, y: Tensor) -> Tensor:
        """Return the packed state at t1, integrated from `y` at t."""
        layout, problem = self.problem.layout, self.problem
        start = layout.unpack(y)
        self.last = solve(
            problem.field.f, start, [t, t1], args=self._args,
            solver=self._solver, rtol=self._rtol, atol=self._atol,
        )  # fmt: skip
        self._calls += self.last.stats.f_calls
        ends = pytree.tree_map(lambda states: states[-1], self.last.ys)
        return layout.pack(ends, "the state")

    def polished(self, t: float, y: Tensor) -> tuple[Tensor, float]:
        """Return the packed state that Newton's method finds, and its rate."""
        root, rate = newton(
            self._function(t), _real(y), lambda x, r: self.rate(self._state(x), self._state(r))
        )
        return self._state(root), rate

    def differentiable(self, t: float, y: Tensor) -> Tensor:
        """Return a packed steady state with its implicit gradient."""
        if not torch.is_grad_enabled() or y.numel() == 0:
            return y
        value = _real(self.slope(t, y))
        start = _real(self.problem.y0)
        if not (value.requires_grad or start.requires_grad):
            return y
        return self._state(implicit(self._function(t), _real(y), value, start))

    def _function(self, t: float) -> Callable[[Tensor], Tensor]:
        return lambda x: _real(self.slope(t, self._state(x)))

    def _state(self, x: Tensor) -> Tensor:
        like = self.problem.y0
        if like.is_complex():
            x = torch.view_as_complex(x.reshape(-1, 2))
        return x.reshape(like.shape)


def _real(y: Tensor) -> Tensor:
    return torch.view_as_real(y).reshape(-1) if y.is_complex() else y.reshape(-1)
