"""Integrals along the solution, outside of the solver's state and of its error control."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SPREAD = math.sqrt(0.15)
GAUSS: tuple[tuple[float, float], ...] = (
    (0.5 - _SPREAD, 5 / 18),
    (0.5, 8 / 18),
    (0.5 + _SPREAD, 5 / 18),
)
"""Nodes and weights on [0, 1] of Gauss's rule of order 6, as good as the steps of order 5."""


def running(values: list[Tensor], outputs: list[int], weights: list[float], count: int) -> Tensor:
    """Return the integrals up to each of `count` outputs, `[count, ...]`.

    `values` are the integrand at the nodes, `outputs` the first output to which each node counts.
    """
    stacked = torch.stack(values)
    scale = torch.tensor(weights, dtype=stacked.dtype.to_real(), device=stacked.device)
    parts = stacked * scale.view(-1, *(1,) * (stacked.dim() - 1))
    index = torch.tensor(outputs, device=stacked.device)
    inside = index < count
    zeros = stacked.new_zeros((count, *stacked.shape[1:]))
    return zeros.index_add(0, index[inside], parts[inside]).cumsum(0)
