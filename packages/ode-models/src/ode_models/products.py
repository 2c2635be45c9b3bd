"""Products of vectors with the Jacobian of a field, which gradients can go through in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad


def pulled(
    f: Callable[[Tensor], Tensor], y: Tensor, vectors: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return f(y) and v^T df/dy for each v, all like `y`.

    Where gradients are off it records what it needs by itself, and keeps nothing. Forward
    derivatives, such as an implicit method takes of a field, go through as well.
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        # To detach y would cut off its forward derivative, too.
        at = y if recorded and y.requires_grad else torch.zeros_like(y, requires_grad=True)
        value = f(y if at is y else y + at)
        products = [
            torch.autograd.grad(value, at, vector, create_graph=recorded, retain_graph=True)[0]
            for vector in vectors
        ]
    if recorded:
        return value, products
    return _alone(value), [_alone(product) for product in products]


def _alone(x: Tensor) -> Tensor:
    """Return a tensor without its graph, but with its forward derivative."""
    value, tangent = forward_ad.unpack_dual(x)
    alone: Tensor = value.detach()
    return alone if tangent is None else forward_ad.make_dual(alone, tangent.detach())
