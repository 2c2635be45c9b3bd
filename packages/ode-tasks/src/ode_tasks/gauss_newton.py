"""Least squares for a field's weights, with a prior whose strength is found along the way.

Source: Levenberg (1944), Marquardt (1963); Foresee, Hagan, Gauss-Newton approximation to Bayesian
learning (1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from ode_tasks.smoothness import first_strengths, next_strengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ode_tasks.smoothness import Differences

# A wide prior of each weight by itself decides what no sample and no difference sees.
_RIDGE = 1e-2
_DAMPING, _FACTOR, _TRIES, _LEAST_DAMPING = 1e-3, 5.0, 10, 1e-7
_STILL, _EVEN, _SETTLED, _FIRST = 1e-5, 1e-2, 1e-2, 4


class Normal(NamedTuple):
    """The normal equations of a problem for the weights, what else is unknown eliminated.

    `matrix` is JᵀJ, `[P, P]`; `vector` is Jᵀ r, `[P]`; `others(step)` is the step of the other
    unknowns that belongs to a step of the weights.
    """

    matrix: Tensor
    vector: Tensor
    others: Callable[[Tensor], Tensor]


class Problem(Protocol):
    """What is to be fitted; `freedom` is the number of samples less that of other unknowns."""

    freedom: int

    def residuals(self, weights: Tensor, others: Tensor) -> Tensor:
        """Return the differences from the samples."""

    def normal(self, weights: Tensor, others: Tensor) -> Normal:
        """Return the equations of a Gauss-Newton step."""


@dataclass
class Fit:
    """Weights `[P]`, other unknowns, the precision of the samples, the strengths of the prior.

    `used` is how many numbers the samples decide, at the last time it was asked.
    """

    weights: Tensor
    others: Tensor
    precision: float
    strengths: Tensor
    used: float = 0.0

    @classmethod
    def begin(cls, weights: Tensor, others: Tensor, precision: float) -> Fit:
        """Return a fit to begin with, of a very smooth field."""
        return cls(weights, others, precision, first_strengths(weights))


def minimise(
    problem: Problem, rough: Differences, fit: Fit, iterations: int, *, learn: bool
) -> Fit:
    """Return a better fit after so many steps at most, fewer where they no longer lower the cost.

    The cost is half of the squares of the residuals, weighed by their precision, of the
    differences, weighed by the strengths, and of the weights. With `learn`, precision and strengths
    are renewed after each step that found the cost nearly settled, and it goes on while that
    changes how many numbers the samples decide.
    """
    damping = _DAMPING
    for number in range(iterations):
        normal = problem.normal(fit.weights, fit.others)
        prior = rough.linear(fit.weights)
        before, system = _cost(problem, rough, fit), _system(fit, normal, prior)
        step = _step(problem, rough, fit, normal, system, before, damping)
        if step is None:
            break
        fit, after, damping = step
        used = fit.used
        if learn and before - after < _SETTLED * after:
            _learn(problem, rough, fit, normal, [matrix for matrix, _ in prior], system)
        still = before - after < _STILL * after and abs(fit.used - used) <= _EVEN * used
        if number >= _FIRST and still:
            break
    return fit


class _System(NamedTuple):
    """The prior's part of a step's matrix `[P, P]`, all of it, and the gradient `[P]`."""

    prior: Tensor
    matrix: Tensor
    gradient: Tensor


def _cost(problem: Problem, rough: Differences, fit: Fit) -> float:
    squares = fit.precision * problem.residuals(fit.weights, fit.others).square().sum()
    prior = fit.strengths @ _squares(rough, fit.weights)
    return 0.5 * float(squares + prior + _RIDGE * fit.weights.square().sum())


def _squares(rough: Differences, weights: Tensor) -> Tensor:
    return torch.stack([rows.square().sum() for rows in rough(weights)])


def _system(fit: Fit, normal: Normal, prior: list[tuple[Tensor, Tensor]]) -> _System:
    matrix = _RIDGE * torch.eye(len(fit.weights)).to(fit.weights)
    gradient = fit.precision * normal.vector + _RIDGE * fit.weights
    for strength, (squares, vector) in zip(fit.strengths, prior, strict=True):
        matrix += strength * squares
        gradient += strength * vector
    return _System(matrix, matrix + fit.precision * normal.matrix, gradient)


def _step(
    problem: Problem,
    rough: Differences,
    fit: Fit,
    normal: Normal,
    system: _System,
    before: float,
    damping: float,
) -> tuple[Fit, float, float] | None:
    """Return a fit that costs less, its cost and the next damping; None where none is found."""
    scale = torch.diag(system.matrix.diagonal())
    for _ in range(_TRIES):
        factor, failed = torch.linalg.cholesky_ex(system.matrix + damping * scale)
        if not int(failed):
            step = -torch.cholesky_solve(system.gradient[:, None], factor)[:, 0]
            others = fit.others + normal.others(step)
            tried = replace(fit, weights=fit.weights + step, others=others)
            cost = _cost(problem, rough, tried)
            if math.isfinite(cost) and cost < before:
                return tried, cost, max(damping / _FACTOR, _LEAST_DAMPING)
        damping *= _FACTOR
    return None


def _learn(
    problem: Problem,
    rough: Differences,
    fit: Fit,
    normal: Normal,
    squares: list[Tensor],
    system: _System,
) -> None:
    """Renew the precision of the samples and the strengths of the prior."""
    wide, failed = torch.linalg.cholesky_ex(system.prior)
    narrow, failed_too = torch.linalg.cholesky_ex(system.matrix)
    if int(failed) or int(failed_too):
        return
    without, with_samples = torch.cholesky_inverse(wide), torch.cholesky_inverse(narrow)
    fit.used = fit.precision * float((with_samples * normal.matrix).sum())
    left = problem.residuals(fit.weights, fit.others)
    least = torch.finfo(torch.float32).eps ** 2  # what float32 samples do not hold is not fitted
    fit.precision = max(problem.freedom - fit.used, 1.0) / max(float(left.square().sum()), least)
    fit.strengths = next_strengths(
        fit.strengths,
        _squares(rough, fit.weights),
        [(without * matrix).sum() for matrix in squares],
        [(with_samples * matrix).sum() for matrix in squares],
    )
