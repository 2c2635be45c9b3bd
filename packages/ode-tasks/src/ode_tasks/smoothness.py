"""How smooth a field is, as a prior whose strength the samples decide.

Source: Wood, Fasiolo, A generalized Fellner-Schall method for smoothing parameter optimization
(2017), for the strengths; MacKay, A practical Bayesian framework for backpropagation networks
(1992), for the evidence of a network's prior, of which it is an iteration.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ode_tasks.sensitivity import WeighedField

ORDERS = (2, 3, 4, 5, 6)
_PLACES, _SEED, _STEP = 500, 5, 0.5
_RISE = 10.0
_CHANGE, _FLOOR, _LEAST, _MOST = 3.0, 0.02, 1e-2, 1e4


class Differences:
    """Differences of a field of orders 2 to 6, in units of the data.

    They stand for its derivatives, in units of the standard deviations of states and slopes. They
    are taken at 500 places in the box of the states, the same in every call, in random directions,
    over steps of half a standard deviation. A row is divided by the root of the number of places,
    so that the sum of an order's squares is a mean over places.
    """

    def __init__(self, field: WeighedField, states: Tensor, unit: Tensor) -> None:
        self.field, self.unit = field, unit
        chance = torch.Generator().manual_seed(_SEED)
        low, high, spread = states.amin(0), states.amax(0), states.std(0)
        dim = len(low)
        self._points, self._stencils = [], []
        for order in ORDERS:
            drawn = torch.rand(_PLACES, dim, generator=chance, dtype=torch.float64).to(low)
            ways = torch.randn(_PLACES, dim, generator=chance, dtype=torch.float64).to(low)
            steps = _STEP * spread * torch.nn.functional.normalize(ways)
            shifts = torch.arange(order + 1).to(low) - order / 2
            self._points.append(low + (high - low) * drawn + shifts[:, None, None] * steps)
            signs = [(-1.0) ** (order - i) * math.comb(order, i) for i in range(order + 1)]
            self._stencils.append(low.new_tensor(signs) / (_STEP**order * _PLACES**0.5))

    def __call__(self, weights: Tensor) -> list[Tensor]:
        """Return the rows of each order, `[500 dim]`."""
        return [
            self._row(stencil, self.field(weights, points.flatten(0, 1)) / self.unit).flatten()
            for points, stencil in zip(self._points, self._stencils, strict=True)
        ]

    def linear(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return for each order JᵀJ `[P, P]` and Jᵀ r `[P]` of its rows r with derivatives J."""
        found = []
        for points, stencil in zip(self._points, self._stencils, strict=True):
            slopes, _, by_weight = self.field.jacobians(weights, points.flatten(0, 1))
            rows = self._row(stencil, slopes / self.unit).flatten()
            jacobian = self._row(stencil, by_weight / self.unit[:, None]).flatten(0, 1)
            found.append((jacobian.T @ jacobian, jacobian.T @ rows))
        return found

    @staticmethod
    def _row(stencil: Tensor, values: Tensor) -> Tensor:
        rows: Tensor = torch.tensordot(stencil, values.unflatten(0, (len(stencil), -1)), 1)
        return rows


def first_strengths(like: Tensor) -> Tensor:
    """Return strengths, one an order, to begin with: those of a field that is very smooth.

    Each is ten times that of the order below, as if the field varied over three standard deviations
    of the states: from there it is found sooner than from a rough one.
    """
    return like.new_tensor([_RISE ** (order - ORDERS[0]) for order in ORDERS])


def next_strengths(
    strengths: Tensor, squares: Tensor, before: list[Tensor], after: list[Tensor]
) -> Tensor:
    """Return strengths that make the samples likelier, each changed by a factor of 3 at most.

    `squares` are the orders' sums of squares; `before` and `after` are the traces of each order's
    JᵀJ times the covariance of the weights without the samples and with them.
    """
    counts = (torch.stack(before) - torch.stack(after)).clamp_min(0.0)
    change = (counts / (squares + _FLOOR)).clamp(1 / _CHANGE, _CHANGE)
    return (strengths * change).clamp(_LEAST, _MOST)
