"""Gradients of what f depends on, summed while they are pulled back through its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    Grads = list[Tensor | None]


class Pulls:
    """The gradients of `tensors` in one backward pass; `totals` are their sums so far."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors
        self.totals: Grads = [None] * len(tensors)

    def add(self, found: Sequence[Tensor | None]) -> None:
        """Add gradients to their totals, where there are any."""
        sums: list[Tensor] = []
        terms: list[Tensor] = []
        for k, grad in enumerate(found):
            if grad is None:
                continue
            total = self.totals[k]
            if total is None:
                # Autograd's own may be shared, what follows is added in place.
                self.totals[k] = grad.clone()
            elif total.is_sparse or grad.is_sparse:
                self.totals[k] = sum_of(total, grad)
            else:
                sums.append(total)
                terms.append(grad)
        if sums:
            torch._foreach_add_(sums, terms)

    def __call__(self, value: Tensor, y: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of the leaf `y` of the graph of `value` from that of the latter."""
        if not value.requires_grad:
            return torch.zeros_like(y)
        found, *others = torch.autograd.grad(value, [y, *self.tensors], grad, allow_unused=True)
        self.add(others)
        return torch.zeros_like(y) if found is None else found


def sum_of(total: Tensor | None, grad: Tensor) -> Tensor:
    """Return the sum of two gradients, of which the first may not be there yet."""
    if total is None:
        return grad
    # A dense tensor takes a sparse one, not the other way round.
    return grad + total if total.is_sparse and not grad.is_sparse else total + grad
