"""Gradients of solved stages by the implicit-function theorem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import SolveError, UnsupportedError
from ode_solvers.implicit.jacobian import pulled_rows
from ode_solvers.implicit.linear import LinearSolver
from ode_solvers.implicit.newton import Equations, constant, coupled


def attached(
    equations: Equations, base: Tensor, z: Tensor, linear: LinearSolver, *, twice: bool
) -> Tensor:
    """Return solved stages Z, `[m, B, n]`, with gradients to `base` and whatever f depends on.

    Z = h A f(base + Z) gives (I - h A J) dZ = h A (J dbase + df): f is evaluated once more at each
    stage, and the backward pass solves with the transposed matrix, whose Jacobians come from that
    evaluation's graph. No iteration is recorded. With `twice` this is done once more at the stages
    that already have their gradient, which makes second derivatives right, too: each pass is a
    Newton correction Z + M^-1 (h A f(base + Z) - Z) with constant M, and adds an order.
    """
    known = z.detach()
    if twice:
        known = _corrected(equations, base, known, linear)
    return _corrected(equations, base, known, linear)


def pushed(equations: Equations, base: Tensor, z: Tensor, jacobians: Tensor) -> Tensor:
    """Return the same with forward derivatives, which go through the solved equations, too.

    `jacobians` are those of f at the stages, `[m, B, n, n]`.
    """
    known, (m, count, n) = z.detach(), z.shape
    pairs = zip(equations.times, (base + known).unbind(0), strict=True)
    slopes = torch.stack([equations.system.slope(t, rows) for t, rows in pairs])
    right = torch.tensordot(constant(equations.block.a, slopes), slopes, 1) * equations.h
    # A zero that has the derivatives of the right-hand side.
    change = (right - right.detach()).transpose(0, 1).reshape(count, m * n, 1)
    matrix = coupled(equations.block, jacobians, equations.h)
    found: Tensor = torch.linalg.solve(matrix, change)
    return known + found.reshape(count, m, n).transpose(0, 1)


def _corrected(equations: Equations, base: Tensor, z: Tensor, linear: LinearSolver) -> Tensor:
    wanted = _Wanted()
    stages = base + (_ForSecondDerivatives.apply(wanted, z) if z.requires_grad else z)
    if not stages.requires_grad:
        stages.requires_grad_()
    pairs = zip(equations.times, stages.unbind(0), strict=True)
    slopes = torch.stack([equations.system.slope(t, rows) for t, rows in pairs])
    right = torch.tensordot(constant(equations.block.a, slopes), slopes, 1) * equations.h
    if not right.requires_grad:
        return z
    out: Tensor = _Corrected.apply(equations, linear, wanted, slopes, stages, right, z)
    return out


@dataclass
class _Wanted:
    """Whether a backward pass that is itself differentiated has come by."""

    second: bool = False


class _ForSecondDerivatives(torch.autograd.Function):
    """Hands on a gradient whose parts add up to zero, only where its derivative will matter."""

    @staticmethod
    def forward(ctx: Any, wanted: _Wanted, z: Tensor) -> Tensor:
        ctx.wanted = wanted
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None]:
        return None, grad if ctx.wanted.second else None


class _Corrected(torch.autograd.Function):
    """Z + M^-1 (right - Z), whose value is Z: `right` is h A f at the stages."""

    @staticmethod
    def forward(
        ctx: Any,
        equations: Equations,
        linear: LinearSolver,
        wanted: _Wanted,
        slopes: Tensor,
        stages: Tensor,
        right: Tensor,
        z: Tensor,
    ) -> Tensor:
        del right
        ctx.set_materialize_grads(False)
        ctx.equations, ctx.linear, ctx.wanted = equations, linear, wanted
        ctx.graph = (slopes, stages)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        slopes, stages = ctx.graph
        if torch.is_grad_enabled():
            ctx.wanted.second = True
        pulled = getattr(ctx.linear, "pulled", None)
        if pulled is None:
            found = _solve(ctx.equations, slopes, stages, grad)
        elif torch.is_grad_enabled():
            raise UnsupportedError(
                "second derivatives are not offered with linear='krylov'; take linear='dense'"
            )
        else:
            found = _iterate(ctx.equations, slopes, stages, grad, pulled)
        return *(None,) * 5, found, grad - found if ctx.wanted.second else None


def _solve(equations: Equations, slopes: Tensor, stages: Tensor, grad: Tensor) -> Tensor:
    """Return w of (I - h A J)^T w = grad, `[m, B, n]`, from whole Jacobians."""
    size, count, n = grad.shape
    # A stage's slope depends on its own state only: one pass gives a row of every stage's.
    matrix = coupled(equations.block, pulled_rows(slopes, stages), equations.h)
    right = grad.transpose(0, 1).reshape(count, size * n, 1)
    found: Tensor = torch.linalg.solve(matrix.transpose(1, 2), right)
    return found.reshape(count, size, n).transpose(0, 1)


def _iterate(
    equations: Equations, slopes: Tensor, stages: Tensor, grad: Tensor, pulled: Any
) -> Tensor:
    """Return the same from products with the transposed Jacobians alone."""
    size, count, n = grad.shape
    right = grad.transpose(0, 1).reshape(count, size * n)
    weights = constant(equations.block.a, grad).T

    def times(v: Tensor) -> Tensor:
        stacked = v.reshape(count, size, n).transpose(0, 1)
        weighted = torch.tensordot(weights, stacked, 1) * equations.h
        # `materialize_grads`: f may not depend on the state at all.
        (back,) = torch.autograd.grad(
            slopes, stages, weighted, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return v - back.transpose(0, 1).reshape(count, size * n)

    found: Tensor = pulled(times, right)
    left = (times(found) - right).norm()
    if not bool(left <= 1e-6 * right.norm()):
        raise SolveError(
            "the backward pass of an implicit step did not converge with linear='krylov'; give "
            "Krylov(restart=..., restarts=...) more room, or take linear='dense'"
        )
    return found.reshape(count, size, n).transpose(0, 1)
