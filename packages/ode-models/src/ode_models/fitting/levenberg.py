"""Levenberg and Marquardt's method for a sum of squares, within bounds and with robust losses.

Source: Moré, The Levenberg-Marquardt algorithm: implementation and theory (1978), for the scaling
by the columns of the Jacobian; Nielsen, Damping parameter in Marquardt's method (1999), for the
damping; Kanzow, Yamashita, Fukushima, Levenberg-Marquardt methods with strong local convergence
properties for solving nonlinear equations with convex constraints (2004), for the projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ode_core import ArgumentError

LOSSES = ("linear", "huber", "soft_l1", "cauchy")
_DAMPING, _MOST_DAMPING = 1e-3, 1e16


@dataclass(frozen=True)
class Loss:
    """rho(r^2 / scale^2) scale^2 of a residual r in place of r^2, by the name that SciPy gives it.

    Raises ArgumentError for a name that is none, and for a scale that is not above 0.
    """

    name: str = "linear"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise ArgumentError(f"loss is one of {', '.join(LOSSES)}; got {self.name!r}")
        if not self.scale > 0.0:
            raise ArgumentError(f"f_scale is a number above 0; got {self.scale!r}")

    def values(self, residuals: Tensor) -> Tensor:
        """Return what each residual, `[R]`, adds to twice the cost."""
        z = (residuals / self.scale).square()
        if self.name == "huber":
            z = torch.where(z > 1.0, 2.0 * z.sqrt() - 1.0, z)
        elif self.name == "soft_l1":
            z = 2.0 * ((1.0 + z).sqrt() - 1.0)
        elif self.name == "cauchy":
            z = z.log1p()
        return self.scale**2 * z

    def weights(self, residuals: Tensor) -> Tensor:
        """Return rho', `[R]`: how much each residual counts, 1 for those that are small."""
        z = (residuals / self.scale).square()
        if self.name == "huber":
            return z.clamp_min(1.0).rsqrt()
        if self.name == "soft_l1":
            return (1.0 + z).rsqrt()
        return 1.0 / (1.0 + z) if self.name == "cauchy" else torch.ones_like(z)

    def curvatures(self, residuals: Tensor) -> Tensor:
        """Return rho' + 2 z rho'', `[R]`: half the second derivative by the residual."""
        z = (residuals / self.scale).square()
        if self.name == "huber":
            return (z <= 1.0).to(z.dtype)
        if self.name == "soft_l1":
            return (1.0 + z).pow(-1.5)
        return (1.0 - z) / (1.0 + z).square() if self.name == "cauchy" else torch.ones_like(z)


class Linearised(NamedTuple):
    """Residuals `[R]` and their Jacobian `[R, U]`; those of the conditions, `[C]` and `[C, U]`.

    A condition's residual is to become 0, whatever the loss.
    """

    residuals: Tensor
    jacobian: Tensor
    conditions: Tensor
    slopes: Tensor


class Bounds(NamedTuple):
    """The least and the greatest value of each unknown, `[U]`."""

    low: Tensor
    high: Tensor

    def inside(self, x: Tensor) -> Tensor:
        """Return the nearest unknowns within the bounds."""
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def free(self, x: Tensor, downhill: Tensor) -> Tensor:
        """Return which unknowns may move along `downhill`, `[U]` bool."""
        held = ((x <= self.low) & (downhill < 0.0)) | ((x >= self.high) & (downhill > 0.0))
        return ~held


@dataclass(frozen=True)
class Stop:
    """When to stop: at most `iterations` attempts, or a relative change of the cost or of x."""

    iterations: int
    cost: float = 1e-10
    step: float = 1e-9


class Found(NamedTuple):
    """Where it ended, what is there, the attempts, and whether a change fell below its limit."""

    x: Tensor
    at: Linearised
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Penalty:
    """The weight of the conditions, and the shift of each, `[C]`, by the method of multipliers."""

    weight: float
    shift: Tensor

    def shifted(self, at: Linearised) -> Tensor:
        """Return the conditions as they are weighed in the cost."""
        return self.weight * (at.conditions + self.shift)


def minimise(
    linearise: Callable[[Tensor], Linearised],
    start: tuple[Tensor, Linearised],
    bounds: Bounds,
    loss: Loss,
    penalty: Penalty,
    stop: Stop,
) -> Found:
    """Minimise half the sum of the losses of the residuals and of the squares of the conditions.

    `linearise(x)` may return residuals that are not finite: such a step is not taken.
    """
    x, at = start
    cost, scale = _cost(at, loss, penalty), torch.zeros_like(x)
    damping, growth = _DAMPING, 2.0
    for attempt in range(1, stop.iterations + 1):
        system, right = _system(at, loss, penalty)
        scale = torch.maximum(scale, system.norm(dim=0))
        unit = torch.where(scale > 0.0, scale, 1.0)
        downhill = -(system.mT @ right)
        free = bounds.free(x, downhill)
        step = _step(system, right, unit * damping**0.5, free)
        trial = bounds.inside(x + step)
        step = trial - x
        promised = 0.5 * float(right.square().sum() - (right + system @ step).square().sum())
        small = float((unit * step).norm()) <= stop.step * float((unit * x).norm())
        if small or promised <= stop.cost * 1e-3 * cost:
            return Found(x, at, attempt, True)
        reached = linearise(trial)
        new = _cost(reached, loss, penalty)
        gain = (cost - new) / promised
        if new < cost:  # of NaN neither is less
            done = cost - new <= stop.cost * cost and gain > 0.25
            x, at, cost = trial, reached, new
            damping, growth = damping * max(1 / 3, 1 - (2 * min(gain, 1.5) - 1) ** 3), 2.0
            if done:
                return Found(x, at, attempt, True)
        else:
            damping, growth = damping * growth, 2.0 * growth
            if damping > _MOST_DAMPING:
                break
    return Found(x, at, stop.iterations, False)


def _cost(at: Linearised, loss: Loss, penalty: Penalty) -> float:
    both = loss.values(at.residuals).sum() + penalty.shifted(at).square().sum()
    return 0.5 * float(both)


def _system(at: Linearised, loss: Loss, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """Return the matrix and the right side of the linear least squares of one step."""
    weights = loss.weights(at.residuals).sqrt()
    system = torch.cat([weights[:, None] * at.jacobian, penalty.weight * at.slopes])
    return system, torch.cat([weights * at.residuals, penalty.shifted(at)])


def _step(system: Tensor, right: Tensor, damped: Tensor, free: Tensor) -> Tensor:
    """Return the damped step, `[U]`, 0 where an unknown is not free."""
    step = torch.zeros_like(damped)
    rows = torch.cat([system[:, free], torch.diag(damped[free])])
    target = torch.cat([-right, right.new_zeros(rows.shape[1])])
    q, r = torch.linalg.qr(rows)
    step[free] = torch.linalg.solve_triangular(r, (q.mT @ target)[:, None], upper=True)[:, 0]
    return step
