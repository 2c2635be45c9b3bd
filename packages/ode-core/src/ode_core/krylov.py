"""Linear equations known only by their products: restarted GMRES."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHECK_EVERY = 8


def gmres(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    rtol: float,
    restart: int = 48,
    cycles: int = 12,
) -> tuple[Tensor, float]:
    """Return x with `product(x) = right`, and the relative residual that was reached.

    `right` is a real `[n]`; `product` is linear. It stops at a residual of `rtol`, or after
    `cycles` times `restart` products. The device is waited for once every eight products.

    Source: Saad, Schultz, GMRES, SIAM J. Sci. Stat. Comput. 7 (1986), with every vector
    orthogonalized twice by classical Gram-Schmidt.
    """
    size = float(torch.linalg.vector_norm(right))
    x = torch.zeros_like(right)
    if size == 0.0:
        return x, 0.0
    left, norm = right, size
    for _ in range(cycles):
        x = x + _cycle(product, left, rtol * size / norm, min(restart, right.numel()))
        left = right - product(x)
        before, norm = norm, float(torch.linalg.vector_norm(left))
        # Written so that NaN ends it.
        if not rtol * size < norm < 0.999 * before:
            break
    return x, norm / size


def _cycle(product: Callable[[Tensor], Tensor], right: Tensor, rtol: float, most: int) -> Tensor:
    """Return the vector of the Krylov space that leaves the smallest residual."""
    basis = right.new_zeros(most + 1, right.numel())
    raised = right.new_zeros(most + 1, most)
    tiny = torch.finfo(right.dtype).tiny
    length = torch.linalg.vector_norm(right)
    basis[0] = right / length
    weights = right.new_zeros(0)
    for j in range(most):
        vector = product(basis[j])
        known = basis[: j + 1]
        for _ in range(2):
            share = known @ vector
            vector = vector - share @ known
            raised[: j + 1, j] += share
        norm = torch.linalg.vector_norm(vector)
        raised[j + 1, j] = norm
        basis[j + 1] = vector / norm.clamp(min=tiny)
        if (j + 1) % CHECK_EVERY == 0 or j + 1 == most:
            small = raised[: j + 2, : j + 1].double().cpu()
            target = torch.zeros(j + 2, dtype=torch.float64)
            target[0] = 1.0
            if not bool(torch.isfinite(small).all()):
                break
            found = torch.linalg.lstsq(small, target.unsqueeze(-1), driver="gelsd").solution
            weights = found.squeeze(-1).to(right)
            if float((small @ found).squeeze(-1).sub(target).norm()) <= rtol:
                break
    combined: Tensor = length * (weights @ basis[: len(weights)])
    return combined
