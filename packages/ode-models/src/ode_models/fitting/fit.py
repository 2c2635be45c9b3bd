"""Fitting known equations with unknown parameters to readings: the front door."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core import ArgumentError, Solver
from ode_models.fitting.levenberg import Bounds, Loss
from ode_models.fitting.readings import Readings, as_readings, cut
from ode_models.fitting.result import Fit, covariance
from ode_models.fitting.sensitivities import Equations
from ode_models.fitting.shooting import Shooting, Unknowns
from ode_models.fitting.starts import first_states

_F64 = torch.float64


def fit(
    f: Callable[[Tensor, Tensor, Any], Tensor],
    parameters: Any,
    t: Tensor | Sequence[float],
    data: Any,
    *,
    y0: Any = None,
    fixed_y0: bool = False,
    observe: Callable[[Tensor, Tensor, Any], Tensor] | None = None,
    guess: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    bounds: tuple[Any, Any] = (-math.inf, math.inf),
    loss: str = "linear",
    f_scale: float = 1.0,
    stretches: int = 1,
    solver: str | Solver = "dopri5",
    rtol: float | None = None,
    atol: float | None = None,
    dt: float | None = None,
    max_iterations: int = 200,
) -> Fit:
    """Find the parameters of dy/dt = f(t, y, parameters) with which the solution follows readings.

    Levenberg and Marquardt's method on the residuals, whose Jacobian comes from forward
    sensitivities solved along with the states; all of it in float64 on the CPU.

    Args:
        f: `f(t, y, parameters) -> dy/dt` for one state `[n]` and a 0-d time, in operations that
            `torch.vmap` and `torch.func.jvp` go through.
        parameters: the values to begin with: a number, a tensor, or a dict, list or tuple of them.
        t: the times of the readings, `[T]`, or `[N, T]` for those of N trajectories, rising.
        data: the readings, `[T, M]` or `[N, T, M]`; NaN where one is missing. N trajectories have
            the same parameters and starts of their own.
        y0: the start to begin with, `[n]` or `[N, n]`; by default the first of `guess`.
        fixed_y0: take `y0` as known.
        observe: `observe(t, y, parameters) -> [M]`, what is read of a state; by default all of it.
        guess: states to begin with at the times `t`, `[T, n]` or `[N, T, n]`; by default the
            readings, straight lines across missing ones, or with `observe` the solution from `y0`.
        sigma: the standard deviation of the noise, a number or what broadcasts to `data`.
        absolute_sigma: whether `sigma` is that itself; else only its proportions count, and the
            noise is what the residuals say.
        bounds: the least and the greatest values, two numbers or structures like `parameters`.
        loss: "linear", or "huber", "soft_l1" or "cauchy", for which outliers count less: those of
            SciPy.
        f_scale: the residual, in units of sigma, from which a reading counts as an outlier.
        stretches: into how many each trajectory is cut; each begins with a start of its own, and
            the starts are brought together on the way. With 1 it is single shooting.
        solver: a registered name or a Solver, with its `rtol` (1e-7), `atol` (1e-9) or `dt`.
        rtol: relative tolerance of states and sensitivities.
        atol: absolute tolerance of the same.
        dt: the step of a solver with fixed steps.
        max_iterations: most attempted steps, over all stages together.

    Raises:
        ArgumentError: for what does not fit together, an `f` that torch.func cannot go through, and
            parameters from which the equations cannot be solved.

    """
    readings = as_readings(t, data, sigma)
    flat, unravel = _flattened(parameters)
    low, high = (_flattened_like(part, parameters) for part in bounds)
    if not bool((low <= flat).all() & (flat <= high).all()):
        raise ArgumentError(
            "the parameters lie within the bounds, each least value below its greatest; got "
            f"{flat.tolist()} within {low.tolist()} and {high.tolist()}"
        )
    unit = torch.where(flat == 0.0, 1.0, flat.abs())
    if rtol is None and atol is None and dt is None:
        rtol, atol = 1e-7, 1e-9
    options = {"solver": solver, "rtol": rtol, "atol": atol, "dt": dt}
    equations = Equations(f, observe, unravel, unit, options)
    states = first_states(equations, readings, flat, y0, guess)
    equations.check(states[0, 0], flat, readings.values.shape[2])
    pieces = cut(readings, stretches)
    firsts = states[pieces.trajectory, pieces.places[:, 0]]
    start = Unknowns(firsts, flat / unit)
    size = states.flatten(0, 1).square().mean(0).sqrt()
    size = torch.where(size > 0.0, size, 1.0)
    shooting = Shooting(equations, readings, pieces, start, size)
    free = torch.full_like(firsts, math.inf)
    if fixed_y0:
        free[::stretches] = 0.0
    limits = Bounds(
        torch.cat([(firsts - free).flatten(), low / unit]),
        torch.cat([(firsts + free).flatten(), high / unit]),
    )
    return _fitted(shooting, start.flat(), limits, Loss(loss, f_scale), max_iterations,
                   absolute=absolute_sigma)  # fmt: skip


def _fitted(
    shooting: Shooting, x: Tensor, bounds: Bounds, loss: Loss, iterations: int, *, absolute: bool
) -> Fit:
    at = shooting.linearise(x)
    if not bool(at.residuals.isfinite().all()):
        raise ArgumentError(
            "the equations cannot be solved over the readings' times with the parameters to begin "
            "with; give others, or cut the trajectories into shorter stretches (stretches=...)"
        )
    found, gap = shooting.minimise((x, at), bounds, loss, iterations)
    spread, freedom = covariance(found, bounds, loss, absolute=absolute)
    equations, readings, pieces = shooting.equations, shooting.readings, shooting.stretches
    starts, scaled = shooting.shape.like(found.x)
    estimates, unit, count = scaled * equations.unit, equations.unit, starts.numel()
    own = spread[count:, count:] * unit[:, None] * unit
    first = pieces.places[:, 0] == 0
    errors = spread.diagonal().sqrt()
    paths, _ = shooting.solved(found.x)
    states = readings.times.new_empty(*readings.times.shape, starts.shape[1])
    kept = pieces.counted.T.nonzero()
    states[pieces.trajectory[kept[:, 1]], pieces.places.T[pieces.counted.T]] = paths[
        kept[:, 0], kept[:, 1]
    ]
    one = (lambda x: x[0]) if readings.single else (lambda x: x)
    return Fit(
        parameters=equations.unravel(estimates),
        standard_errors=equations.unravel(own.diagonal().sqrt()),
        covariance=own,
        y0=one(starts[first]),
        y0_standard_errors=one(errors[:count].view_as(starts)[first]),
        states=one(states),
        residuals=one(_residuals(equations, readings, states, estimates)),
        cost=0.5 * float(loss.values(found.at.residuals).sum()),
        freedom=freedom,
        gap=gap,
        iterations=found.iterations,
        f_calls=shooting.f_calls,
        converged=found.converged,
        reason=_reason(found.converged, gap, found.iterations, iterations),
        unravel=equations.unravel,
        estimates=estimates,
    )


def _reason(converged: bool, gap: float, used: int, most: int) -> str:
    if converged:
        return "the cost, or the parameters, change by less than their tolerance"
    if used >= most:
        return f"{most} iterations were not enough; raise max_iterations or begin elsewhere"
    if gap > 0.0:
        return (
            f"the stretches still miss each other by {gap:.1e} of the state's size; begin elsewhere"
            " or take fewer stretches"
        )
    return "no step makes the cost less, so rtol and atol may be too loose; or begin elsewhere"


def _residuals(
    equations: Equations, readings: Readings, states: Tensor, estimates: Tensor
) -> Tensor:
    flat = states.flatten(0, 1)
    size = flat.shape[1]
    none = flat.new_zeros(len(flat), size + len(estimates), size)
    seen, _ = equations.seen(readings.times.flatten(), flat, none, estimates)
    return (seen.view_as(readings.values) - readings.values) / readings.sigma


def _flattened(parameters: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return all parameters in one float64 tensor `[P]`, and what makes the structure of that."""
    leaves, spec = pytree.tree_flatten(parameters)
    try:
        tensors = [torch.as_tensor(leaf, dtype=_F64).detach().cpu() for leaf in leaves]
    except (TypeError, ValueError, RuntimeError):
        tensors = []
    if not tensors or not all(bool(leaf.isfinite().all()) for leaf in tensors):
        raise ArgumentError(
            "parameters is a number, a tensor, or a dict, list or tuple of them, all finite; got "
            f"{parameters!r:.80}"
        )
    shapes = [leaf.shape for leaf in tensors]
    counts = [leaf.numel() for leaf in tensors]

    def unravel(flat: Tensor) -> Any:
        parts = zip(flat.split(counts), shapes, strict=True)
        return pytree.tree_unflatten([part.view(shape) for part, shape in parts], spec)

    return torch.cat([leaf.flatten() for leaf in tensors]), unravel


def _flattened_like(bound: Any, parameters: Any) -> Tensor:
    """Return a bound, a number or a structure like the parameters, in one tensor `[P]`."""
    leaves, spec = pytree.tree_flatten(parameters)
    given, own = pytree.tree_flatten(bound)
    if isinstance(bound, int | float):
        given, own = given * len(leaves), spec
    if own != spec:
        raise ArgumentError(
            "bounds are two numbers or two structures like parameters, the least and the greatest "
            f"values; got {bound!r:.80}"
        )
    sizes = [torch.as_tensor(leaf, dtype=_F64).shape for leaf in leaves]
    ends = [torch.as_tensor(end, dtype=_F64) for end in given]
    return torch.cat([end.expand(size).flatten() for end, size in zip(ends, sizes, strict=True)])
