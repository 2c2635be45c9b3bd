"""Gradients with respect to the times of a solve, outside of every gradient method.

They are those of the continuous solution; see `clock` for those of a solve with given steps.

Moving an output time moves its state along f: dL/dt_i = <g_i, f(t_i, y_i)>. Moving the start moves
the state that is there at a fixed time against f: dL/dt_0 = -<lambda_0, f(t_0, y_0)>.
Source: Chen et al., Neural ordinary differential equations, 2018, appendix B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.errors import UnsupportedError
from ode_core.rows import by_row, where
from ode_core.samples import SampleProblem

if TYPE_CHECKING:
    from ode_core.problem import Problem


def move_start(problem: Problem | SampleProblem) -> Tensor:
    """Return y0, `[...]`, such that its gradient also reaches the first time."""
    moved: Tensor = _Start.apply(problem.y0, problem.ts, problem)
    return moved


def move_outputs(problem: Problem | SampleProblem, ys: Tensor) -> Tensor:
    """Return states `[T, ...]` whose gradients also reach the times; those at t0 are y0 itself."""
    if isinstance(problem, SampleProblem):
        moved: Tensor = _SampleOutputs.apply(ys, problem.ts, problem)
        still = (problem.ts.detach() == problem.start[:, None]).T
        return torch.where(still.view(*still.shape, *(1,) * (ys.dim() - 2)), problem.y0, moved)
    count = problem.times.count(problem.times[0])
    moved = _Outputs.apply(ys[count:], problem.ts, problem)
    return torch.cat([problem.y0.expand(count, *problem.y0.shape), moved])


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y0: Tensor, ts: Tensor, problem: Problem) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(y0, ts)
        return y0.view_as(y0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        _once()
        y0, ts = ctx.saved_tensors
        problem = ctx.problem
        rows = isinstance(problem, SampleProblem)
        slope = problem.field.plain(problem.start if rows else problem.times[0], y0)
        problem.stats.backward_f_calls += 1
        grad_ts = torch.zeros_like(ts)
        grad_ts[..., 0] = -_inner(grad, slope, rows=rows)
        return grad, grad_ts, None


class _Outputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ys: Tensor, ts: Tensor, problem: Problem) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(ys, ts)
        return ys.view_as(ys)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, Tensor, None]:
        _once()
        ys, ts = ctx.saved_tensors
        problem = ctx.problem
        still = len(ts) - len(ys)
        grad_ts = torch.zeros_like(ts)
        for index, (grad, y) in enumerate(zip(grads, ys, strict=True), start=still):
            if bool(grad.any()):
                slope = problem.field.plain(problem.times[index], y)
                problem.stats.backward_f_calls += 1
                grad_ts[index] = _inner(grad, slope)
        return grads, grad_ts, None


class _SampleOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ys: Tensor, ts: Tensor, problem: SampleProblem) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(ys, ts)
        return ys.view_as(ys)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, Tensor, None]:
        _once()
        ys, ts = ctx.saved_tensors
        problem = ctx.problem
        grad_ts = torch.zeros_like(ts)
        for index, (grad, y) in enumerate(zip(grads, ys, strict=True)):
            t = ts[:, index]
            # The state at the start is y0 whatever its time is; padding has no state.
            moves = (t != problem.start) & ~t.isnan()
            asked = by_row(grad != 0).any(1)
            if not bool((asked & moves).any()):
                continue
            slope = problem.field.plain(
                torch.where(moves, t, problem.start), where(moves, y, problem.y0.detach())
            )
            problem.stats.backward_f_calls += 1
            grad_ts[:, index] = torch.where(moves, _inner(grad, slope, rows=True), 0.0)
        return grads, grad_ts, None


def _inner(grad: Tensor, slope: Tensor, *, rows: bool = False) -> Tensor:
    products = (grad.conj() * slope).real.to(torch.float64)
    return by_row(products).sum(1) if rows else products.sum()


def _once() -> None:
    if torch.is_grad_enabled():
        raise UnsupportedError(
            "second derivatives with respect to t are not offered; pass t without requires_grad"
        )
