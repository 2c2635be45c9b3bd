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
from ode_models.intakes import Absorption, as_intakes


class GRU(nn.Module):
    """Readings, the gaps between them and their changes go through a GRU; a head forecasts.

    `horizons` are hours above 0, rising. With `linear` (the default) the network corrects a linear
    predictor, which on regular readings is most of what there is to learn; without it, the last
    value. `controls` is the number of kinds of intake (see `Absorption`), of which the network sees
    what is being absorbed at each reading and at each horizon.
    """

    horizon_times: Tensor

    def __init__(
        self, horizons: Sequence[float], width: int, *, controls: int = 0, linear: bool = True
    ) -> None:
        super().__init__()
        self.horizons = check_horizons(horizons)
        ahead = len(self.horizons)
        self.register_buffer("horizon_times", torch.tensor(self.horizons), persistent=False)
        self.linear = LinearPath(ahead) if linear else None
        self.controls = controls
        self.absorption = Absorption(controls) if controls else None
        self.recurrent = nn.GRU(4 + controls, width, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(width + 1 + ahead * controls, width), nn.SiLU(), silent(width, 2 * ahead)
        )

    def forward(
        self,
        times: Tensor,
        values: Tensor,
        mask: Tensor,
        intake_times: Tensor | None = None,
        intake_amounts: Tensor | None = None,
    ) -> Forecast:
        """Return the forecast for readings `[B, L]`: hours up to the origin at 0, values, mask.

        With `controls`, intakes at times `[B, K]`, hours, and their amounts `[B, K, controls]`.
        """
        intakes = as_intakes(self.controls, intake_times, intake_amounts)
        readings = ordered(times, values, mask, newest_first=False)
        newest = ordered(times, values, mask, newest_first=True)
        last = newest.values[:, :1]
        base = last.expand(-1, len(self.horizons)) if self.linear is None else self.linear(newest)
        inputs, told = features(readings, last), [last]
        if self.absorption is not None and intakes is not None:
            inputs = torch.cat((inputs, self.absorption(readings.times, intakes)), 2)
            ahead = self.horizon_times.expand(len(values), -1)
            told.append(self.absorption(ahead, intakes).flatten(1))
        hidden, _ = self.recurrent(inputs)
        end = hidden[torch.arange(len(hidden)), readings.length - 1]
        mean, spread = self.head(torch.cat((end, *told), 1)).chunk(2, 1)
        return Forecast(base + mean, F.softplus(spread) + LEAST_STD, values.new_zeros(()))
