"""Stiff problems of chemistry, and one with a known smooth solution.

Source: Mazzia, Magherini, Test set for initial value problem solvers, release 2.4 (2008); Hairer,
Wanner, Solving Ordinary Differential Equations II. End values: extrapolation in binary128, or the
test set's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ode_core.testing.problems.reference import ReferenceProblem, float64, stack


def _robertson(t: Any, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    first, third = -0.04 * a + 1e4 * b * c, 3e7 * b**2
    return stack(first, -first - third, third)


def _hires(t: Any, y: Tensor) -> Tensor:
    a, b, c, d, e, f, g, h = y.unbind(-1)
    bound = 280 * f * h
    return stack(
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * f + 0.43 * g,
        -bound + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        bound - 1.81 * g,
        1.81 * g - bound,
    )


def _orego(t: Any, y: Tensor) -> Tensor:
    s, q, w = 77.27, 8.375e-6, 0.161
    a, b, c = y.unbind(-1)
    return stack(s * (b + a * (1 - q * a - b)), (c - (1 + a) * b) / s, w * (a - c))


def _prothero_robinson(t: Any, y: Tensor) -> Tensor:
    return stack(-50 * (y[..., 0] - torch.cos(t)))


def _prothero_robinson_exact(t: float) -> Tensor:
    return float64(2500 / 2501 * (math.cos(t) + math.sin(t) / 50 - math.exp(-50 * t)))


_ROBERTSON = {
    1.0: (0.9664597373330035035105, 3.074626578578674739254e-5, 0.03350951640121070974207),
    10.0: (0.84136992384147292450, 1.6233909379904725661e-5, 0.15861384224914717078),
    40.0: (0.71582706871940509047, 9.1855347645577639039e-6, 0.28416374574583035176),
    100.0: (0.61723488239608775602, 6.1535912746391229234e-6, 0.38275896401263760486),
    1e11: (2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050),
}

_HIRES = (
    7.3713125733256678073e-4,
    1.4424857263161846582e-4,
    5.8887297409675750075e-5,
    0.0011756513432831491455,
    0.0023863561988313304688,
    0.0062389682527427957866,
    0.0028499983951857686579,
    0.0028500016048142313421,
)


def stiff() -> Iterator[ReferenceProblem]:
    """Yield Robertson, HIRES, OREGO and a problem of Prothero and Robinson's type."""
    yield ReferenceProblem(
        "robertson",
        _robertson,
        (1.0, 0.0, 0.0),
        40.0,
        _ROBERTSON,
        "Robertson 1966; Hairer, Wanner II, eq. IV.1.4",
        stiff=True,
    )
    yield ReferenceProblem(
        "hires",
        _hires,
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        321.8122,
        {321.8122: _HIRES},
        "Schäfer 1975; Hairer, Wanner II, section IV.10",
        stiff=True,
    )
    yield ReferenceProblem(
        "orego",
        _orego,
        (1.0, 2.0, 3.0),
        360.0,
        {360.0: (1.000814870318523, 1228.178521549917, 132.0554942846706)},
        "Field, Noyes 1974; Hairer, Wanner II, section IV.10",
        stiff=True,
        floor=1e-12,
    )
    yield ReferenceProblem(
        "prothero_robinson",
        _prothero_robinson,
        (0.0,),
        1.5,
        {1.5: (0.09065084106335865524493,)},
        "Hairer, Wanner II, eq. IV.1.1",
        exact=_prothero_robinson_exact,
        stiff=True,
    )
