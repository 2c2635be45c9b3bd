"""Gradients of solved stages by the implicit-function theorem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ode_core import SolveError, UnsupportedError
from ode_solvers.implicit.jacobian import pulled_rows
from ode_solvers.implicit.linear import LinearSolver
from ode_solvers.implicit.newton import Equations, constant


def attached(equations: Equations, base: Tensor, z: Tensor, linear: LinearSolver) -> Tensor:
    """Return solved stages Z, `[m, B, n]`, with gradients to `base` and whatever f depends on.

    Z = h A f(base + Z) gives (I - h A J) dZ = h A (J dbase + df): f is evaluated once more at each
    stage, and the backward pass solves with the transposed matrix, whose Jacobians come from that
    evaluation's graph. No iteration is recorded. Second derivatives evaluate f again, attached.
    """
    stages = base + z.detach()
    if not stages.requires_grad:
        stages.requires_grad_()
    slopes = _slopes(equations, stages)
    right = _weighted(equations, slopes)
    if not right.requires_grad:
        return z
    out: Tensor = _Solved.apply(equations, linear, slopes, stages, right, base, z)
    return out


def _slopes(equations: Equations, stages: Tensor) -> Tensor:
    pairs = zip(equations.times, stages.unbind(0), strict=True)
    return torch.stack([equations.system.slope(t, rows) for t, rows in pairs])


def _weighted(equations: Equations, slopes: Tensor) -> Tensor:
    """Return h A k, `[m, B, n]`."""
    return torch.tensordot(constant(equations.block.a, slopes), slopes, 1) * equations.h


class _Solved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        equations: Equations,
        linear: LinearSolver,
        slopes: Tensor,
        stages: Tensor,
        right: Tensor,
        base: Tensor,
        z: Tensor,
    ) -> Tensor:
        del right
        out = z.clone()
        ctx.equations, ctx.linear, ctx.graph = equations, linear, (slopes, stages)
        ctx.save_for_backward(base, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        equations, linear = ctx.equations, ctx.linear
        slopes, stages = ctx.graph
        again = torch.is_grad_enabled()
        if again:
            base, z = ctx.saved_tensors
            stages = base + z
            if not stages.requires_grad:
                stages.requires_grad_()
            slopes = _slopes(equations, stages)
        if linear.direct:
            found = _solve(equations, slopes, stages, grad, graph=again)
        elif again:
            raise UnsupportedError(
                "second derivatives are not offered with linear='krylov'; take linear='dense'"
            )
        else:
            found = _iterate(equations, slopes, stages, grad, linear)
        return None, None, None, None, found, None, None


def _solve(
    equations: Equations, slopes: Tensor, stages: Tensor, grad: Tensor, *, graph: bool
) -> Tensor:
    """Return w of (I - h A J)^T w = grad, `[m, B, n]`, from whole Jacobians."""
    size, count, n = grad.shape
    # A stage's slope depends on its own state only: one pass gives a row of every stage's.
    rows = pulled_rows(slopes, stages, graph=graph)
    matrix = torch.einsum("ij,jbpq->bipjq", constant(equations.block.a, grad), rows)
    h = equations.h[:, :, None] if isinstance(equations.h, Tensor) else equations.h
    matrix = matrix.reshape(count, size * n, size * n) * -h
    matrix = matrix + torch.eye(size * n, dtype=grad.dtype, device=grad.device)
    right = grad.transpose(0, 1).reshape(count, size * n, 1)
    found = torch.linalg.solve(matrix.transpose(1, 2), right)
    return found.reshape(count, size, n).transpose(0, 1)


def _iterate(
    equations: Equations, slopes: Tensor, stages: Tensor, grad: Tensor, linear: LinearSolver
) -> Tensor:
    """Return the same from products with the transposed Jacobians alone."""
    size, count, n = grad.shape
    right = grad.transpose(0, 1).reshape(count, size * n)
    weights = constant(equations.block.a.T, grad)  # type: ignore[union-attr]

    def times(v: Tensor) -> Tensor:
        stacked = v.reshape(count, size, n).transpose(0, 1)
        weighted = torch.tensordot(weights, stacked, 1) * equations.h
        (pulled,) = torch.autograd.grad(
            slopes, stages, weighted, retain_graph=True, allow_unused=True
        )
        if pulled is None:
            return v
        return v - pulled.transpose(0, 1).reshape(count, size * n)

    found = linear.pulled(times, right)
    left = (times(found) - right).norm()
    if not bool(left <= 1e-6 * right.norm()):
        raise SolveError(
            "the backward pass of an implicit step did not converge with linear='krylov'; give "
            "Krylov(restart=..., restarts=...) more room, or take linear='dense'"
        )
    return found.reshape(count, size, n).transpose(0, 1)
