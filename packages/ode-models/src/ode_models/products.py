"""Products of vectors with the Jacobian of a field, which gradients can go through in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pulled(
    f: Callable[[Tensor], Tensor], y: Tensor, vectors: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return f(y) and v^T df/dy for each v, all like `y`.

    Where gradients are off it records what it needs by itself, and keeps nothing.
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        seen = y if recorded and y.requires_grad else y.detach().requires_grad_()
        value = f(seen)
        products = [
            torch.autograd.grad(value, seen, vector, create_graph=recorded, retain_graph=True)[0]
            for vector in vectors
        ]
    if recorded:
        return value, products
    return value.detach(), [product.detach() for product in products]
