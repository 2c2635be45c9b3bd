"""What a fit found, and how well the data determine it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import ArgumentError
from ode_models.fitting.levenberg import Bounds, Found, Loss
from ode_models.fitting.student import half_width


@dataclass(frozen=True, eq=False)
class Fit:
    """Parameters with the least cost, and how certain they are.

    `parameters` and `standard_errors` have the structure of the parameters that were given, tensors
    in float64; `covariance` is that of the parameters in one row, `[P, P]`. A parameter on a bound
    counts as known there, and has NaN for a standard error; one that the data say nothing of has
    infinity. `y0` is the start, `[n]` or `[N, n]`, with its own `y0_standard_errors`; `states`
    are those at the times of the readings, `[T, n]` or `[N, T, n]`, and `residuals` are seen minus
    read over sigma, like the data, NaN where nothing was read. `cost` is half the sum of the
    residuals' losses, `freedom` the number of readings minus that of unknowns. `gap` is the most by
    which one stretch misses the start of the next, in units of the state's size.
    """

    parameters: Any
    standard_errors: Any
    covariance: Tensor
    y0: Tensor
    y0_standard_errors: Tensor
    states: Tensor
    residuals: Tensor
    cost: float
    freedom: int
    gap: float
    iterations: int
    f_calls: int
    converged: bool
    reason: str
    unravel: Callable[[Tensor], Any]
    estimates: Tensor

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Return the ends of each parameter's confidence interval, structured like `parameters`.

        They are Student's, of the equations linearised at the solution. Raises ArgumentError for a
        level that is not between 0 and 1, and without more readings than unknowns.
        """
        if not 0.0 < level < 1.0:
            raise ArgumentError(f"level is a number between 0 and 1; got {level!r}")
        if self.freedom < 1:
            raise ArgumentError(
                f"{self.freedom} degrees of freedom leave nothing to judge the noise by; give more "
                "readings than there are unknowns"
            )
        half = half_width(level, self.freedom) * self.covariance.diagonal().sqrt()
        return self.unravel(self.estimates - half), self.unravel(self.estimates + half)

    @property
    def correlation(self) -> Tensor:
        """The correlations of the parameters, `[P, P]`."""
        errors = self.covariance.diagonal().sqrt()
        related: Tensor = self.covariance / (errors[:, None] * errors)
        return related


def covariance(found: Found, bounds: Bounds, loss: Loss, *, absolute: bool) -> tuple[Tensor, int]:
    """Return the covariance of all unknowns, `[U, U]`, and the degrees of freedom.

    Unknowns on a bound have NaN, those that are not determined infinity. The conditions hold
    exactly: only ways along them are looked at. With a robust loss it is the sandwich of Huber
    (1967), else the variance times the inverse of J^T J; the variance is 1 where sigma is
    `absolute`, else what the residuals say.
    """
    x, at = found.x, found.at
    free = (x > bounds.low) & (x < bounds.high)
    ways = _kernel(at.slopes[:, free])
    steps = at.jacobian[:, free] @ ways
    freedom = len(at.residuals) - ways.shape[1]
    out = torch.full((len(x), len(x)), torch.nan).to(x)
    bend = loss.curvatures(at.residuals)
    push = loss.weights(at.residuals) * at.residuals
    if loss.name == "linear":
        variance = 1.0 if absolute else float(at.residuals.square().sum()) / max(freedom, 1)
        middle = variance * steps.mT @ steps
    else:
        middle = steps.mT @ (push.square()[:, None] * steps)
    # Only what is measured in one unit can be called singular.
    unit = steps.norm(dim=0)
    unit = torch.where(unit > 0.0, unit, 1.0)
    hessian = (steps / unit).mT @ (bend[:, None] * steps / unit)
    values, vectors = torch.linalg.eigh(hessian)
    known = values > 1e-12 * values.abs().max()
    inverse = vectors[:, known] / values[known] @ vectors[:, known].mT
    inner = inverse @ (middle / (unit[:, None] * unit)) @ inverse
    spread = (ways / unit) @ inner @ (ways / unit).mT
    blind = ((ways / unit) @ vectors[:, ~known]).abs()
    if blind.numel():
        lost = blind.amax(1) > 1e-6 * (ways / unit).norm(dim=1)
        spread[lost] = torch.inf
        spread[:, lost] = torch.inf
    place = free.nonzero()[:, 0]
    out[place[:, None], place] = spread
    return out, freedom


def _kernel(slopes: Tensor) -> Tensor:
    """Return an orthonormal basis of what the conditions allow, `[U, W]`."""
    if not len(slopes):
        return torch.eye(slopes.shape[1]).to(slopes)
    q, _ = torch.linalg.qr(slopes.mT, mode="complete")
    ways: Tensor = q[:, len(slopes) :]
    return ways
