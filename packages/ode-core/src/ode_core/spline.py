"""The natural cubic spline: second derivatives at the knots, linear in the values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def second_derivatives(values: Tensor, widths: Tensor, inside: Tensor) -> Tensor:
    """Return the second derivatives at the knots of the natural cubic spline, like `values`.

    `values` is `[..., K, F]`, `widths`, `[..., K - 1]`, are the distances of the knots, and
    `inside`, `[..., K]` bool, says which knots have a neighbour on both sides: the others' second
    derivative is 0. The graph behind the result holds nothing that a backward pass frees, so the
    result may be kept over many of them.

    Source: Stoer, Bulirsch, Introduction to Numerical Analysis, eq. 2.4.2.
    """
    curved: Tensor = _Natural.apply(values, widths, inside)
    return curved


class _Natural(torch.autograd.Function):
    """M = A^-1 R v with A symmetric, so that the gradient is R^T A^-1 g."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, widths: Tensor, inside: Tensor) -> Tensor:
        slopes = values.diff(dim=-2) / widths.unsqueeze(-1)
        bends = torch.zeros_like(values)
        bends[..., 1:-1, :] = 6.0 * slopes.diff(dim=-2)
        return _solved(torch.where(inside.unsqueeze(-1), bends, 0.0), widths, inside)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        # Constants of the knots: kept beside the graph, so that it can be gone through again.
        ctx.widths, ctx.inside = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        pulled: Tensor = _Transposed.apply(grad, ctx.widths, ctx.inside)
        return pulled, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return second_derivatives(tangent, ctx.widths, ctx.inside)


class _Transposed(torch.autograd.Function):
    """The transpose of `_Natural`, whose own gradient is `_Natural` again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, widths: Tensor, inside: Tensor) -> Tensor:
        weights = 6.0 * _solved(torch.where(inside.unsqueeze(-1), grad, 0.0), widths, inside)
        weights = torch.where(inside.unsqueeze(-1), weights, 0.0)
        # The transpose of two differences in a row: two differences in a row.
        slopes = weights.diff(dim=-2) / widths.unsqueeze(-1)
        ends = torch.zeros_like(slopes[..., :1, :])
        return torch.cat([ends, slopes, ends], dim=-2).diff(dim=-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        ctx.widths, ctx.inside = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return second_derivatives(grad, ctx.widths, ctx.inside), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        pulled: Tensor = _Transposed.apply(tangent, ctx.widths, ctx.inside)
        return pulled


def _solved(right: Tensor, widths: Tensor, inside: Tensor) -> Tensor:
    """Solve the spline's tridiagonal equations by elimination; diagonally dominant, no pivoting."""
    before = torch.where(inside[..., 1:] & inside[..., :-1], widths, 0.0)
    diagonal = torch.ones_like(inside, dtype=widths.dtype)
    diagonal[..., 1:-1] = torch.where(
        inside[..., 1:-1], 2.0 * (widths[..., 1:] + widths[..., :-1]), 1.0
    )
    diagonals = list(diagonal.unbind(-1))
    rows = list(right.unbind(-2))
    sides = before.unbind(-1)
    for k, side in enumerate(sides):
        share = side / diagonals[k]
        diagonals[k + 1] = diagonals[k + 1] - share * side
        rows[k + 1] = rows[k + 1] - share.unsqueeze(-1) * rows[k]
    rows[-1] = rows[-1] / diagonals[-1].unsqueeze(-1)
    for k in range(len(sides) - 1, -1, -1):
        known = sides[k].unsqueeze(-1) * rows[k + 1]
        rows[k] = (rows[k] - known) / diagonals[k].unsqueeze(-1)
    return torch.stack(rows, dim=-2)
