"""The one autograd function through which gradient methods without a stored graph differentiate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import UnsupportedError

Pull = Callable[
    [Tensor, Tensor, Tensor, "tuple[Tensor, ...]"], "tuple[Tensor, Sequence[Tensor | None]]"
]
"""`pull(grad_ys, ys, y0, tensors) -> (grad_y0, gradients of tensors)`: a method's backward pass."""


def attach(name: str, pull: Pull, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
    """Return `ys`, `[T, ...]`, with a gradient to `y0` and `tensors` that `pull` computes.

    A second derivative raises UnsupportedError, which names the method.
    """
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in (y0, *tensors)):
        return ys
    attached: Tensor = _Attached.apply(name, pull, ys, y0, *tensors)
    return attached


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, name: str, pull: Pull, ys: Tensor, y0: Tensor, *tensors: Tensor
    ) -> Tensor:
        ctx.name, ctx.pull = name, pull
        # Saved tensors know when they were changed in place between the two passes.
        ctx.save_for_backward(ys, y0, *tensors)
        return ys.view_as(ys)

    @staticmethod
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                f"gradient={ctx.name!r} offers no second derivatives (create_graph=True); "
                "take gradient='direct'"
            )
        ys, y0, *tensors = ctx.saved_tensors
        grad_y0, grads = ctx.pull(grad_ys, ys, y0, tuple(tensors))
        return None, None, None, grad_y0, *grads
