"""Noisy spirals that wind clockwise or anticlockwise, with readings missing."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Series(NamedTuple):
    """Times `[N, L]`, values `[N, L, 2]` with NaN where one is missing, labels `[N]`."""

    times: Tensor
    values: Tensor
    labels: Tensor


def spirals(
    count: int, length: int, *, dropped: float, missing: float, noise: float, seed: int
) -> Series:
    """Return spirals seen at `length` regular times in [0, 1], of which some are left.

    Each begins at an angle and a radius of its own and winds by half a turn to one and a half,
    outwards or inwards; label 1 is anticlockwise. Of each, the part `dropped` of the times is lost,
    others in each series, and of what is left each coordinate with the chance `missing`; at least
    two times stay. `noise` is the standard deviation of what is added to each reading.
    """
    chance = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=chance)

    labels = torch.arange(count) % 2
    times = torch.linspace(0.0, 1.0, length)
    turns = uniform(0.5, 1.5) * (2.0 * labels[:, None] - 1.0)
    angle = 2.0 * math.pi * (uniform(0.0, 1.0) + turns * times)
    radius = uniform(0.5, 1.5) + uniform(-0.4, 0.4) * times
    values = torch.stack([radius * angle.cos(), radius * angle.sin()], 2)
    values = values + noise * torch.randn(values.shape, generator=chance)
    lost = torch.rand(values.shape, generator=chance) < missing
    values = values.masked_fill(lost, torch.nan)
    left = max(2, round(length * (1.0 - dropped)))
    kept = torch.rand(count, length, generator=chance).argsort(1)[:, :left].sort(1).values
    rows = torch.arange(count)[:, None]
    return Series(times[kept], values[rows, kept], labels)
