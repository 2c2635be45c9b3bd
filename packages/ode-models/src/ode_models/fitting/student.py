"""Quantiles of Student's distribution, which torch has not."""

from __future__ import annotations

import math

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def half_width(level: float, freedom: int) -> float:
    """Return the t with P(|T| <= t) = `level` for Student's T with so many degrees of freedom.

    With t = sqrt(n) tan(a) that is an integral of cos(a)^(n - 1), smooth up to its end.
    """
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        heights = np.cos(0.5 * angle * (1.0 + _NODES)) ** (freedom - 1)
        return float(math.exp(log_scale) * angle * (heights @ _WEIGHTS))

    low, high = 0.0, 1.0
    while inside(high) < level:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return 0.5 * (low + high)
