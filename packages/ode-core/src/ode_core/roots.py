"""Roots of f in y: Newton's method, and how a root moves with what f depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import SolveError, UnsupportedError
from ode_core.krylov import gmres

DENSE_UP_TO = 256

Function = Callable[[Tensor], Tensor]
"""From `[n]` real numbers to as many."""


class Jacobian:
    """The Jacobian J of a function at a point `[n]`, to solve with.

    Up to 256 unknowns it is made, from n products; beyond, GMRES sees its products alone, those
    with J itself by differentiating v -> J^T v, so that the function must be differentiable twice.
    """

    def __init__(self, function: Function, x: Tensor) -> None:
        with torch.enable_grad():
            self._x = x.detach().requires_grad_()
            self._y = function(self._x)
        self._dense: Tensor | None = None
        if x.numel() <= DENSE_UP_TO:
            rows = [self._transposed(unit) for unit in torch.eye(x.numel()).to(x)]
            self._dense = torch.stack(rows)

    def solve(self, right: Tensor) -> tuple[Tensor, float]:
        """Return x with J x = right, `[n]`, and the relative residual."""
        if self._dense is not None:
            return _direct(self._dense, right)
        return gmres(self._straight(), right, rtol=_accuracy(right))

    def solve_transposed(self, right: Tensor) -> tuple[Tensor, float]:
        """Return x with J^T x = right, `[n]`, and the relative residual."""
        if self._dense is not None:
            return _direct(self._dense.T, right)
        return gmres(self._transposed, right, rtol=_accuracy(right))

    def _transposed(self, v: Tensor) -> Tensor:
        if not self._y.requires_grad:
            return torch.zeros_like(v)
        (pulled,) = torch.autograd.grad(
            self._y, self._x, v, retain_graph=True, materialize_grads=True
        )
        return pulled

    def _straight(self) -> Function:
        with torch.enable_grad():
            v = torch.zeros_like(self._x, requires_grad=True)
            pulled = torch.zeros_like(v)
            if self._y.requires_grad:
                (pulled,) = torch.autograd.grad(
                    self._y, self._x, v, create_graph=True, materialize_grads=True
                )

        def product(u: Tensor) -> Tensor:
            if not pulled.requires_grad:
                return torch.zeros_like(u)
            (pushed,) = torch.autograd.grad(pulled, v, u, retain_graph=True, materialize_grads=True)
            return pushed

        return product


def _accuracy(x: Tensor) -> float:
    return float(torch.finfo(x.dtype).eps ** (2 / 3))


def _direct(matrix: Tensor, right: Tensor) -> tuple[Tensor, float]:
    x, info = torch.linalg.solve_ex(matrix, right)
    residual = torch.linalg.vector_norm(matrix @ x - right) / torch.linalg.vector_norm(right)
    left = float("inf") if bool(info) else float(residual)
    return x, left if bool(right.any()) else 0.0


def newton(
    function: Function, x: Tensor, size: Callable[[Tensor, Tensor], float], most: int = 20
) -> tuple[Tensor, float]:
    """Return the best point that full Newton steps from `x` reach, and its residual's size.

    `size(x, residual)` measures a residual. A step that does not halve it is not taken and ends
    the search: the start is close to the root, or Newton's method is not to be trusted.
    """
    residual = function(x)
    best = size(x, residual)
    for _ in range(most):
        if best == 0.0:
            break
        step, left = Jacobian(function, x).solve(residual)
        if not left < 0.1:
            break
        trial = x - step
        there = function(trial)
        reached = size(trial, there)
        # Written so that NaN ends it.
        if not reached < 0.5 * best:
            break
        x, residual, best = trial, there, reached
    return x, best


def implicit(function: Function, root: Tensor, value: Tensor, start: Tensor) -> Tensor:
    """Return `root`, `[n]`, with the gradient of the implicit function theorem.

    `value` is the function at the root with its graph: dx = -J^-1 dvalue carries the gradient to
    every tensor that takes part. `start` gets a gradient of zero.
    """
    moved: Tensor = _Implicit.apply(value, root, start, function)
    return moved


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, root: Tensor, start: Tensor, function: Function) -> Tensor:
        del value
        ctx.function = function
        ctx.save_for_backward(root, start)
        return root.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "a steady state offers no second derivatives; differentiate without "
                "create_graph=True"
            )
        root, start = ctx.saved_tensors
        pulled, left = Jacobian(ctx.function, root).solve_transposed(grad)
        if not left <= torch.finfo(grad.dtype).eps ** 0.5:
            raise SolveError(
                "the gradient of the steady state was not found: the equations with f's Jacobian "
                f"there were solved to {left:.1e} only, so it is (nearly) singular; the steady "
                "state may not be isolated"
            )
        return -pulled, None, torch.zeros_like(start), None
