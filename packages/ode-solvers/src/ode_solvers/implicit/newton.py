"""Simplified Newton iterations for the stages that a step solves together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ode_solvers.implicit.linear import Solve
from ode_solvers.implicit.system import System
from ode_solvers.implicit.table import Block

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
_DIVERGES = 0.99


@dataclass(eq=False)
class Equations:
    """Z = h A f(base + Z) for the `m` stages of a block, `[m, B, n]`.

    `h` is a number, or `[B, 1]` and nowhere 0; `base` is `[m, B, n]`. `needs_gradient` becomes true
    when f is seen to depend on something that requires a gradient, if `watch` is set.
    """

    system: System
    block: Block
    times: tuple[Any, ...]
    h: Any
    base: Tensor
    watch: bool = False
    needs_gradient: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        # The transformation to the block's eigenvectors as tensors, once a block.
        like, block = self.base, self.block
        assert block.inverse is not None  # explicit stages are not solved
        self._gamma = float(block.inverse[0, 0]) if block.size == 1 else None
        if self._gamma is not None:
            return
        self._modes = [
            (mode.shift, constant(mode.left, like), constant(mode.right, like))
            for mode in block.modes
        ]
        self._inverse = constant(block.inverse, like)

    def slopes(self, z: Tensor) -> Tensor:
        """Return f at the stages, `[m, B, n]`."""
        with torch.set_grad_enabled(self.watch):
            found = [
                self.system.slope(t, rows)
                for t, rows in zip(self.times, (self.base + z).unbind(0), strict=True)
            ]
        self.needs_gradient |= self.watch and any(k.requires_grad for k in found)
        if len(found) == 1:
            return found[0].detach().unsqueeze(0)
        return torch.stack([k.detach() for k in found])

    def implied(self, z: Tensor) -> Tensor:
        """Return the slopes that belong to stages, `[m, B, n]`: A^-1 Z / h."""
        if self._gamma is not None:
            return torch.mul(z, self._gamma / self.h)
        return torch.div(torch.tensordot(self._inverse, z, 1), self.h)

    def correction(self, solve: Solve, z: Tensor) -> Tensor:
        """Return the correction of Z, `[m, B, n]`, by one Jacobian; one evaluation of f a stage."""
        residual = self.slopes(z) - self.implied(z)
        if self._gamma is not None:
            return solve(self.block.modes[0].shift, residual[0]).unsqueeze(0)
        total = torch.zeros_like(z)
        for shift, left, right in self._modes:
            part = solve(shift, torch.tensordot(left, residual.to(left.dtype), 1))
            spread = right[:, None, None] * part
            # Of a conjugate pair the other half adds its conjugate.
            total = total + (2.0 * spread.real if spread.is_complex() else spread)
        return total


def constant(values: Any, like: Tensor) -> Tensor:
    """Return an array as a tensor of the real or complex dtype of `like`, on its device."""
    array = np.asarray(values)
    dtype = like.dtype.to_complex() if array.dtype.kind == "c" else like.dtype
    return torch.from_numpy(array).to(like.device, dtype)


def coupled(block: Block, jacobians: Tensor, h: Any) -> Tensor:
    """Return I - h A J with a Jacobian of its own for each stage, `[m, B, n, n]`, as one matrix.

    `[B, m n, m n]`.
    """
    m, count, n = jacobians.shape[:3]
    matrix = torch.einsum("ij,jbpq->bipjq", constant(block.a, jacobians), jacobians)
    scale = h[:, :, None] if isinstance(h, Tensor) else h
    unit = torch.eye(m * n, dtype=jacobians.dtype, device=jacobians.device)
    return torch.sub(unit, matrix.reshape(count, m * n, m * n) * scale)


class Limits(NamedTuple):
    """When to stop: `measure(correction, Z)` is `[B]`, 1 where a correction is small enough.

    A row whose corrections no longer shrink is done if they are below `slack`, which is what
    rounding leaves, and otherwise given up, unless `patient`.
    """

    measure: Callable[[Tensor, Tensor], Tensor]
    iterations: int
    slack: float
    patient: bool = False


class Outcome(NamedTuple):
    """Z, the rows that failed, the largest contraction rate seen, and eta = rate / (1 - rate)."""

    z: Tensor
    failed: Bools
    rate: Floats
    eta: Floats


def newton(
    correct: Callable[[Tensor], Tensor],
    z: Tensor,
    eta: Floats,
    idle: Bools,
    limits: Limits,
) -> Outcome:
    """Iterate from `z`, `[m, B, n]`, until each row's next correction would be small enough.

    `correct(z)` is an iteration's correction. Rows that are done, or idle, do not change any more.
    One read from the device an iteration.

    Source: Hairer and Wanner II, section IV.8, eq. 8.9 to 8.11.
    """
    done, failed = idle.copy(), np.zeros_like(idle)
    rate, before, theta = np.zeros_like(eta), np.zeros_like(eta), np.zeros_like(eta)
    if idle.all():
        return Outcome(z, failed, rate, eta)
    for iteration in range(limits.iterations):
        correction = correct(z)
        still = done | failed
        if still.any():
            mask = torch.from_numpy(still).to(z.device)[None, :, None]
            correction = torch.where(mask, 0.0, correction)
        z = z + correction
        norm = limits.measure(correction, z).to(torch.float64).cpu().numpy()
        live = ~still
        failed |= live & ~np.isfinite(norm)
        live &= ~failed
        if iteration:
            quotient = norm / np.where(live, before, 1.0)
            theta = np.sqrt(quotient * theta) if iteration > 1 else quotient
            rate = np.where(live, np.maximum(rate, theta), rate)
            theta = np.where(live, theta, 0.0)
            shrinking = np.minimum(theta, _DIVERGES)
            eta = np.where(live, shrinking / (1.0 - shrinking), eta)
            ahead = shrinking ** (limits.iterations - 1 - iteration)
            stuck = live & ((theta >= _DIVERGES) | (norm * ahead / (1.0 - shrinking) > 1.0))
            done |= stuck & (norm <= limits.slack)
            if not limits.patient:
                failed |= stuck & (norm > limits.slack)
            live &= ~stuck
        done |= live & ((eta * norm <= 1.0) | (norm == 0.0))
        before = norm
        if (done | failed).all():
            break
    return Outcome(z, failed | ~done, rate, eta)
