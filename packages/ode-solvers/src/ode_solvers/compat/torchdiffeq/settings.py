"""torchdiffeq's options as the arguments of the core's `solve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import ArgumentError, FixedSteps, Solver, Tolerance
from ode_solvers.compat.torchdiffeq.methods import CHOSEN, GIVEN, Method
from ode_solvers.compat.torchdiffeq.norms import UserTolerance, measurable
from ode_solvers.compat.torchdiffeq.stepping import Attempt, Callbacks, StepControl, Stepper

MOST_STEPS = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """What a solve by one of torchdiffeq's methods takes beside f, y0, t and its tolerances."""

    solver: Solver
    controller: StepControl | FixedSteps | None = None
    dt: float | None = None
    jump_times: Tensor | None = None
    max_steps: int = MOST_STEPS


def settings(
    method: Method,
    options: Mapping[str, Any],
    times: Tensor,
    callbacks: Callbacks,
    *,
    tolerance: Tolerance | None,
    grid: Callable[[Any], Any],
) -> Settings:
    """Return the settings for a solve through `times`, `[T]`.

    `tolerance` replaces the core's where it is given; `grid` calls a grid constructor with func, y0
    and t. Raises ArgumentError, a ValueError, for options that exclude each other.
    """
    if method.steps == CHOSEN:
        return _chosen(method, options, times, callbacks, tolerance)
    solver = method.create(options)
    if method.steps == GIVEN:
        return _given(solver, options, times, callbacks, grid)
    return Settings(solver)


def _chosen(
    method: Method,
    options: Mapping[str, Any],
    times: Tensor,
    callbacks: Callbacks,
    tolerance: Tolerance | None,
) -> Settings:
    names = {name: name for name in ("safety", "ifactor", "dfactor")}
    names |= {"min_step": "dt_min", "max_step": "dt_max"}
    numbers = {ours: float(options[name]) for name, ours in names.items() if name in options}
    attempt = Attempt()
    control = StepControl(attempt, callbacks, method.scale, **numbers)
    solver = method.create(options)
    if isinstance(tolerance, UserTolerance):
        solver = measurable(solver)
    jumps = _jumps(options)
    if tolerance is not None or callbacks.any:
        solver = Stepper(solver, attempt, callbacks, tolerance=tolerance)
    first = options.get("first_step")
    # torchdiffeq counts the steps between two outputs.
    most = int(options.get("max_num_steps", MOST_STEPS)) * max(1, len(times) - 1)
    return Settings(solver, control, None if first is None else float(first), jumps, most)


def _jumps(options: Mapping[str, Any]) -> Tensor | None:
    """Return the times that a step must end at: of jumps, and any others."""
    given = [options[name] for name in ("step_t", "jump_t") if options.get(name) is not None]
    if not given:
        return None
    both = torch.cat([torch.as_tensor(x).detach().reshape(-1).to(torch.float64) for x in given])
    if len(both.unique()) < len(both):
        raise ArgumentError("step_t and jump_t have no time in common and none twice")
    return both


def _given(
    solver: Solver,
    options: Mapping[str, Any],
    times: Tensor,
    callbacks: Callbacks,
    grid: Callable[[Any], Any],
) -> Settings:
    step_size, constructor = options.get("step_size"), options.get("grid_constructor")
    if step_size is not None and constructor is not None:
        raise ArgumentError("step_size and grid_constructor exclude each other; pass one of them")
    interp = options.get("interp", "cubic")
    if interp not in ("linear", "cubic"):
        raise ArgumentError(f"interp is 'linear' or 'cubic'; got {interp!r}")
    forwards = len(times) < 2 or bool(times[-1] >= times[0])
    perturb = (1.0 if forwards else -1.0) if options.get("perturb") else 0.0
    if perturb or interp == "linear" or callbacks.any:
        solver = Stepper(solver, Attempt(), callbacks, perturb=perturb, linear=interp == "linear")
    if step_size is not None:
        return Settings(solver, FixedSteps(), float(step_size))
    if len(times) < 2:
        return Settings(solver, FixedSteps(), 1.0)
    return Settings(solver, FixedSteps(times if constructor is None else grid(constructor)))
