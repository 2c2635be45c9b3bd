"""Zeros of a function along one step, from its values at a few points between the step's ends.

Values at Chebyshev points fix a polynomial; its signs on a fine grid, and the vertex of every dip
towards zero, bracket crossings that a look at the step's ends alone would miss. Each bracket is
then narrowed on the function itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

_DEGREE = 8
_FINE = 96
# A polished root is this close, as a part of the step.
_WIDTH = 2.0**-46
# What comes this near, as a part of the change within the step, is looked at again.
_NEAR = 0.01
# At the start of a solve, what is this small beside the rest of the step counts as zero.
_ZERO = 1e-9


def _grid(count: int) -> Tensor:
    angles = torch.arange(count + 1, dtype=torch.float64) * (math.pi / count)
    return 0.5 - 0.5 * angles.cos()


NODES: tuple[float, ...] = tuple(_grid(_DEGREE).tolist())
"""Where in a step, as theta in [0, 1], a function is looked at."""


@cache
def _fine() -> tuple[Tensor, Tensor]:
    """Return the fine grid, `[97]`, and the `[97, 9]` matrix from values at the nodes to it.

    Source: Berrut and Trefethen, Barycentric Lagrange interpolation, SIAM Review 46 (2004), eq. 4.2
    with the weights of eq. 5.4.
    """
    theta = _grid(_FINE)
    nodes, fine = np.array(NODES), theta.numpy()
    weights = np.array([(-1.0) ** j for j in range(_DEGREE + 1)])
    weights[[0, -1]] *= 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = weights / (fine[:, None] - nodes)
        matrix = terms / terms.sum(1, keepdims=True)
    for row, column in zip(*np.nonzero(np.isclose(fine[:, None], nodes, atol=1e-15)), strict=True):
        matrix[row] = 0.0
        matrix[row, column] = 1.0
    return theta, torch.from_numpy(matrix)


def far_from_zero(values: list[float]) -> bool:
    """Return whether values at the nodes are of one sign and further from zero than they vary."""
    low, high = min(values), max(values)
    return low * high > 0.0 and min(abs(low), abs(high)) > 0.5 * (high - low)


def brackets(values: Tensor, direction: int, *, fresh: bool | Tensor) -> tuple[Tensor, Tensor]:
    """Return where crossings lie: lower and upper ends in theta, `[k, n]`, in order, inf for none.

    `values` are `[9, n]` float64 at `NODES`, one column a function. `direction` is 1 for rising
    zeros, -1 for falling ones, 0 for both. `fresh`, or `[n]` of it, says that the solve starts with
    this step: a start on the zero is no crossing.
    """
    theta, to_fine = (x.to(values.device) for x in _fine())
    theta, fine = theta[:, None], to_fine @ values
    sign = fine.sign()
    slack = _ZERO * fresh
    sign[0] = torch.where(fine[0].abs() <= slack * fine.abs().amax(0), sign[1], sign[0])
    crossed = (sign[1:] != sign[:-1]) & (sign[:-1] != 0)
    before, middle, after = fine[:-2], fine[1:-1], fine[2:]
    shift = (before - after) / (2.0 * (before - 2.0 * middle + after))
    vertex = middle - 0.25 * (before - after) * shift
    one_sign = (sign[:-2] == sign[1:-1]) & (sign[1:-1] == sign[2:])
    least = (middle.abs() <= before.abs()) & (middle.abs() <= after.abs())
    dip = one_sign & least & (vertex * middle < 0.0)
    steps = torch.arange(1, _FINE, dtype=torch.float64, device=values.device)[:, None]
    bottom = 0.5 - 0.5 * ((steps + shift) * (math.pi / _FINE)).cos()
    wanted = [crossed, dip, dip]
    if direction:
        leaving = [-sign[:-1], -sign[1:-1], sign[1:-1]]
        wanted = [w & (way == direction) for w, way in zip(wanted, leaving, strict=True)]
    start, end = _certain(crossed, sign, theta)
    lows = [start, theta[:-2].expand_as(dip), bottom]
    highs = [end, bottom, theta[2:].expand_as(dip)]
    low = torch.where(torch.cat(wanted), torch.cat(lows), math.inf)
    low, order = low.sort(0)
    high = torch.where(low.isinf(), math.inf, torch.cat(highs).gather(0, order))
    most = int(low.isfinite().sum(0).max()) if low.numel() else 0
    return low[:most], high[:most]


def _certain(crossed: Tensor, sign: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of crossings, `[96, n]`: nodes, whose values are known, around a single one.

    Where a function jumps, the polynomial crosses elsewhere.
    """
    many = _FINE // _DEGREE
    at_nodes = sign[::many]
    alone = crossed.view(_DEGREE, many, -1).sum(1) == 1
    alone = (alone & (at_nodes[1:] != at_nodes[:-1])).repeat_interleave(many, 0)
    wide = theta[::many].repeat_interleave(many, 0)
    start = torch.where(alone, wide[: len(crossed)], theta[:-1])
    return start, torch.where(alone, wide[many:], theta[1:])


def near_miss(values: list[float]) -> bool:
    """Return whether a function dips so near to zero that the step's own error may hide a zero."""
    if far_from_zero(values):
        return False
    fine = (_fine()[1] @ torch.tensor(values, dtype=torch.float64)).tolist()
    if min(fine) * max(fine) < 0.0:
        return False
    sizes = [abs(value) for value in fine]
    inner = min(sizes[1:-1])
    return bool(inner < min(sizes[0], sizes[-1]) and inner < _NEAR * (max(sizes) - inner))


def polished(g: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the end beyond the zero of narrowed brackets `[n]`; inf where there is no zero.

    `g` maps `[n]` thetas to `[n]` values. Regula falsi with the Illinois rule; every third step
    halves instead.
    """
    found = low.isfinite()
    low, high = torch.where(found, low, 0.0), torch.where(found, high, 1.0)
    below, above = g(low), g(high)
    found &= (below.sign() != above.sign()) & above.isfinite()
    side = torch.zeros_like(low)
    for count in range(160):
        open_ = found & (high - low > _WIDTH) & (above != 0.0)
        if not bool(open_.any()):
            break
        middle = 0.5 * (low + high)
        if count % 3 != 2:
            secant = low + (high - low) * below / (below - above)
            inside = (secant > low) & (secant < high)
            middle = torch.where(inside, secant, middle)
        value = g(middle)
        upper = value.sign() == above.sign()
        # Illinois: an end that stays twice in a row counts half.
        below = torch.where(open_ & upper & (side > 0), below * 0.5, below)
        above = torch.where(open_ & ~upper & (side < 0), above * 0.5, above)
        high = torch.where(open_ & upper, middle, high)
        above = torch.where(open_ & upper, value, above)
        low = torch.where(open_ & ~upper, middle, low)
        below = torch.where(open_ & ~upper, value, below)
        side = torch.where(upper, 1.0, -1.0)
        exact = open_ & (value == 0.0)
        high, above = torch.where(exact, middle, high), torch.where(exact, value, above)
    return torch.where(found, high, math.inf)
