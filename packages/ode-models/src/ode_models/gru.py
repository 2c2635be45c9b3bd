"""A gated recurrent unit that forecasts from readings at irregular times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_models.forecast import (
    LEAST_STD,
    Forecast,
    LinearPath,
    check_horizons,
    features,
    ordered,
    silent,
)


class GRU(nn.Module):
    """Readings, the gaps between them and their changes go through a GRU; a head forecasts.

    `horizons` are hours above 0, rising. With `linear` (the default) the network corrects a linear
    predictor, which on regular readings is most of what there is to learn; without it, the last
    value.
    """

    def __init__(self, horizons: Sequence[float], width: int, *, linear: bool = True) -> None:
        super().__init__()
        self.horizons = check_horizons(horizons)
        self.linear = LinearPath(len(self.horizons)) if linear else None
        self.recurrent = nn.GRU(4, width, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(width + 1, width), nn.SiLU(), silent(width, 2 * len(self.horizons))
        )

    def forward(self, times: Tensor, values: Tensor, mask: Tensor) -> Forecast:
        """Return the forecast for readings `[B, L]`: hours up to the origin at 0, values, mask."""
        readings = ordered(times, values, mask, newest_first=False)
        newest = ordered(times, values, mask, newest_first=True)
        last = newest.values[:, :1]
        base = last.expand(-1, len(self.horizons)) if self.linear is None else self.linear(newest)
        hidden, _ = self.recurrent(features(readings, last))
        end = hidden[torch.arange(len(hidden)), readings.length - 1]
        mean, spread = self.head(torch.cat((end, last), 1)).chunk(2, 1)
        return Forecast(base + mean, F.softplus(spread) + LEAST_STD, values.new_zeros(()))
