"""The sums of the Triton kernel as linear maps, and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ode_solvers.kernels.sweep import Sweep, Weigh, joined
from ode_solvers.tableau import Row

Weights = tuple[tuple[float, ...], ...]
"""A row as the programs take it: for each slope a polynomial in theta, lowest power first."""


def weights_of(row: Row) -> Weights:
    """Return a stage's row as the programs take it."""
    return tuple((weight,) for _, weight in row)


def in_kind(theta: float | Tensor, h: float | Tensor) -> float | Tensor:
    """Return theta as the programs take it beside a step size."""
    # A stage's weights do not depend on theta; what is passed for it is never read.
    return theta if isinstance(theta, Tensor) or not isinstance(h, Tensor) else h


class Span:
    """A step size, and the sums that one recorded step has made so far, where it is recorded."""

    __slots__ = ("size", "sweep", "token")

    def __init__(self, size: float) -> None:
        self.size = size
        self.sweep: Sweep | None = None
        self.token: Tensor | None = None

    def swept(
        self, y: Tensor, row: Row, ks: Sequence[Tensor], weigh: Weigh, total: Callable[[], Tensor]
    ) -> Tensor | None:
        """Return the step's next sum, which `total` makes; None where it is another one."""
        if self.sweep is None and len(ks) == 1:
            self.sweep, self.token = Sweep(self.size, weigh), y
        if self.sweep is None or self.token is None or len(ks) != len(self.sweep.rows) + 1:
            return None
        out, self.token = joined(self.sweep, self.token, ks[-1], row, total)
        return out


class Sum(torch.autograd.Function):
    """y + h sum w k; its transpose is the gradient, and a scaled copy of it for every slope."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Any,
        h: float | Tensor,
        theta: float | Tensor,
        weights: Weights,
        y: Tensor,
        *ks: Tensor,
    ) -> Tensor:
        """Return the sum, one launch."""
        ctx.given = kernel, h, theta, weights
        total: Tensor = kernel.summed(y, h, theta, weights, ks)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Return the scaled copies that are needed, one launch."""
        kernel, h, theta, weights = ctx.given
        wanted = ctx.needs_input_grad[5:]
        asked = tuple(w for w, needed in zip(weights, wanted, strict=True) if needed)
        if torch.is_grad_enabled() and grad.requires_grad:
            made = iter(Scatter.apply(kernel, h, theta, asked, grad))
        else:
            made = iter(kernel.scattered(grad, h, theta, asked))
        slopes = [next(made) if needed else None for needed in wanted]
        return None, None, None, None, grad, *slopes


class Scatter(torch.autograd.Function):
    """The transpose of the sum, whose own transpose is the sum, from zero."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Any,
        h: float | Tensor,
        theta: float | Tensor,
        weights: Weights,
        grad: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the scaled copies, one launch."""
        ctx.given = kernel, h, theta, weights
        return tuple(kernel.scattered(grad, h, theta, weights))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the sum of the gradients."""
        kernel, h, theta, weights = ctx.given
        total = kernel.sum(torch.zeros_like(grads[0]), h, theta, weights, grads)
        return None, None, None, None, total
