"""Newton's polynomials over the last steps: what weighs the differences of past slopes.

With t_n the last time, h the step from it and psi_i(n) the distance from t_n back over i steps,
the difference of order i is phi_i(n) = psi_1(n) ... psi_(i-1)(n) f[t_n, ..., t_(n-i+1)].

The few numbers of a step are NumPy's with shared steps, which is quicker, and tensors with a
leading `[B]` with per-sample steps: one line does both, as both libraries use the same names.

Source: Shampine and Gordon, Computer Solution of Ordinary Differential Equations, 1975, chapter 5;
Hairer, Nørsett, Wanner I, section III.5.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Numbers: TypeAlias = Any
"""Float64: a NumPy array `[...]` with shared steps, a tensor `[B, ...]` with per-sample steps."""


def library(numbers: Numbers) -> Any:
    """Return the library whose numbers these are."""
    return torch if isinstance(numbers, Tensor) else np


def growth(h: Numbers, gaps: Numbers) -> Numbers:
    """Return beta, `[..., K]`: phi_i(n) times beta_i continues differences up to t_n + h.

    `h` is the signed step, `[...]`, `gaps` are those before it, latest first, `[..., K-1]`, 0 where
    there are none.
    """
    lib, known = library(gaps), gaps != 0.0
    behind = lib.cumsum(gaps, -1)
    ahead = lib.concatenate((h[..., None], h[..., None] + behind[..., :-1]), -1)
    ratios = lib.where(known, ahead / lib.where(known, behind, 1.0), 1.0)
    return lib.concatenate((lib.ones_like(h)[..., None], lib.cumprod(ratios, -1)), -1)


def integrals(h: Numbers, gaps: Numbers, theta: Numbers) -> Numbers:
    """Return g, `[..., K+1]`: Newton's polynomials integrated from t_n to t_n + theta h, over h.

    The polynomials are 1 at t_n + h; `theta` is `[...]`, the rest as in `growth`.
    """
    lib = library(gaps)
    nodes, weights = _gauss(gaps.shape[-1] // 2 + 2, h.device if lib is torch else None)
    behind = lib.concatenate((lib.zeros_like(h)[..., None], lib.cumsum(gaps, -1)), -1)
    times = (theta * h)[..., None] * nodes
    factors = (times[..., None] + behind[..., None, :]) / (h[..., None] + behind)[..., None, :]
    means = lib.matmul(weights, lib.cumprod(factors, -1))
    return theta[..., None] * lib.concatenate((lib.ones_like(h)[..., None], means), -1)


@cache
def _gauss(count: int, device: torch.device | None) -> tuple[Numbers, Numbers]:
    # Gauss's rule on [0, 1]: exact for polynomials below degree 2 count.
    nodes, weights = np.polynomial.legendre.leggauss(count)
    nodes, weights = 0.5 + 0.5 * nodes, 0.5 * weights
    if device is None:
        return nodes, weights
    return torch.from_numpy(nodes).to(device), torch.from_numpy(weights).to(device)
