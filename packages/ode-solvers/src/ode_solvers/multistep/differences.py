"""Newton's polynomials over the last steps: what weighs the differences of past slopes.

With t_n the last time, h the step from it and psi_i(n) the distance from t_n back over i steps,
the difference of order i is phi_i(n) = psi_1(n) ... psi_(i-1)(n) f[t_n, ..., t_(n-i+1)].

Source: Shampine and Gordon, Computer Solution of Ordinary Differential Equations, 1975, chapter 5;
Hairer, Nørsett, Wanner I, section III.5.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor


def growth(h: Tensor, gaps: Tensor) -> Tensor:
    """Return beta, `[..., K]`: phi_i(n) times beta_i continues differences up to t_n + h.

    `h` is the signed step, `[...]`, `gaps` are those before it, latest first, `[..., K-1]`, 0 where
    there are none.
    """
    behind = torch.cumsum(gaps, -1)
    ahead = torch.cat((h[..., None], h[..., None] + behind[..., :-1]), -1)
    ratios = torch.where(gaps == 0.0, 1.0, ahead / behind.masked_fill(gaps == 0.0, 1.0))
    return torch.cat((torch.ones_like(h)[..., None], torch.cumprod(ratios, -1)), -1)


def integrals(h: Tensor, gaps: Tensor, theta: Tensor) -> Tensor:
    """Return g, `[..., K+1]`: Newton's polynomials integrated from t_n to t_n + theta h, over h.

    The polynomials are 1 at t_n + h; `theta` is `[...]`, the rest as in `growth`.
    """
    nodes, weights = _gauss(gaps.shape[-1] // 2 + 2, h.device)
    behind = torch.cat((torch.zeros_like(h)[..., None], torch.cumsum(gaps, -1)), -1)
    times = (theta * h)[..., None] * nodes
    factors = (times[..., None] + behind[..., None, :]) / (h[..., None] + behind)[..., None, :]
    means = torch.matmul(weights, torch.cumprod(factors, -1))
    return theta[..., None] * torch.cat((torch.ones_like(h)[..., None], means), -1)


@cache
def _gauss(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # Gauss's rule on [0, 1]: exact for polynomials below degree 2 count.
    nodes, weights = np.polynomial.legendre.leggauss(count)
    pair = torch.from_numpy(np.stack((0.5 + 0.5 * nodes, 0.5 * weights))).to(device)
    return pair[0], pair[1]
