"""The norms of torchdiffeq's users: functions of a tensor, or of a tuple of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ode_core import Solver, Tolerance
from ode_solvers.explicit import RungeKutta

Norm = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class UserTolerance(Tolerance):
    """A tolerance whose norm is the user's: `measure` takes the packed scaled errors."""

    measure: Norm = field(default=torch.linalg.vector_norm, kw_only=True)

    def root_mean_square(self, ratio: Tensor) -> float:
        """Return the user's norm of scaled errors, infinite where it is not finite."""
        value = abs(float(self.measure(ratio)))
        return value if math.isfinite(value) else math.inf


@dataclass(frozen=True, eq=False)
class BlockTolerance(Tolerance):
    """A tolerance whose norm is the largest of its segments', in few operations for many."""

    def root_mean_square(self, ratio: Tensor) -> float:
        """Return the largest root mean square of the segments, infinite where one is NaN."""
        sizes = [size for size in self.segments if size]
        norms = torch._foreach_norm(ratio.split(sizes))
        means = [norm / math.sqrt(size) for norm, size in zip(norms, sizes, strict=True)]
        value = float(torch.stack(means).max().item())
        return math.inf if math.isnan(value) else value


def measurable(solver: Solver) -> Solver:
    """Return the solver with a kernel that asks the tolerance for the norm.

    The fused kernels take the root mean square on their way through memory.
    """
    return replace(solver, kernel="cpu") if isinstance(solver, RungeKutta) else solver


def state_norm(norm: Norm, parts: Callable[[Tensor], Any]) -> Norm:
    """Return a norm of packed scaled errors from one of the state as the user knows it."""

    def measure(ratio: Tensor) -> Any:
        return norm(parts(ratio))

    return measure


def largest(norms: tuple[Any, ...]) -> float:
    """Return the largest of norms, NaN if one is."""
    values = [abs(float(norm)) for norm in norms]
    return math.nan if any(math.isnan(value) for value in values) else max(values, default=0.0)


def mean_square_root(x: Tensor) -> Tensor:
    """Return the root mean square of a tensor, 0 where it is empty."""
    return x.abs().square().mean().sqrt() if x.numel() else x.new_zeros(())
