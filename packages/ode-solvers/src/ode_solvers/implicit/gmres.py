"""GMRES for several systems at once, without their matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def gmres(
    times: Callable[[Tensor], Tensor], right: Tensor, rtol: float, restart: int, restarts: int
) -> Tensor:
    """Return x, `[B, n]`, with A x near to `right`: residuals fall by `rtol`, or it gives up.

    `times` is the product with A, each row its own system; real or complex. After `restart`
    products it starts anew from what it has, at most `restarts` times. One read from the device a
    product.

    Source: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986), algorithms 3 and 4.
    """
    x = torch.zeros_like(right)
    residual = right
    allowed = rtol * right.norm(dim=1).cpu().numpy()
    for attempt in range(restarts):
        if attempt:
            residual = right - times(x)
        size = residual.norm(dim=1)
        sizes = size.cpu().numpy()
        if not np.isfinite(sizes).all():
            return torch.full_like(right, torch.nan)
        if (sizes <= allowed).all():
            return x
        x = x + _cycle(times, residual, size, allowed, min(restart, right.shape[1]))
    return x


def _cycle(
    times: Callable[[Tensor], Tensor],
    residual: Tensor,
    size: Tensor,
    allowed: NDArray[np.float64],
    most: int,
) -> Tensor:
    """Return the correction from one Krylov space of at most `most` dimensions."""
    basis = [residual / torch.where(size == 0.0, 1.0, size)[:, None]]
    dtype = np.complex128 if residual.is_complex() else np.float64
    hessenberg = np.zeros((len(residual), most + 1, most), dtype)
    start = np.zeros((len(residual), most + 1, 1), dtype)
    start[:, 0, 0] = size.cpu().numpy()
    for index in range(most):
        fresh = times(basis[index])
        known = torch.stack(basis)
        before = torch.einsum("kbn,bn->kb", known.conj(), fresh)
        fresh = fresh - torch.einsum("kb,kbn->bn", before, known)
        # Once more: rounding leaves a part along what should be orthogonal.
        again = torch.einsum("kbn,bn->kb", known.conj(), fresh)
        fresh = fresh - torch.einsum("kb,kbn->bn", again, known)
        norm = fresh.norm(dim=1)
        column = torch.cat([before + again, norm[None].to(before.dtype)]).cpu().numpy()
        if not np.isfinite(column).all():
            return torch.full_like(residual, torch.nan)
        hessenberg[:, : index + 2, index] = column.T
        inner, target = hessenberg[:, : index + 2, : index + 1], start[:, : index + 2]
        weights = np.linalg.pinv(inner, rcond=1e-15) @ target
        left = np.linalg.norm(target - inner @ weights, axis=(1, 2))
        if (left <= allowed).all():
            break
        basis.append(fresh / torch.where(norm == 0.0, 1.0, norm)[:, None])
    factors = torch.from_numpy(weights[:, :, 0].T.copy()).to(residual.device, residual.dtype)
    return torch.einsum("kb,kbn->bn", factors, torch.stack(basis[: len(factors)]))
