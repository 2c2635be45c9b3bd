"""What the latent ODE and its control share: recognition, decoder, evidence lower bound."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_models.forecast import (
    LEAST_STD,
    WINDOW,
    Forecast,
    LinearPath,
    Readings,
    check_horizons,
    features,
    ordered,
    silent,
)
from ode_models.intakes import Absorption, Intakes, as_intakes

LATENT = 16
"""Dimensions of the latent state."""

_GRID = 0.25
"""Hours between the times at which the latent path is stored."""


class Posterior(NamedTuple):
    """The recognition network's Gaussian over the latent start, each `[B, latent]`."""

    mean: Tensor
    std: Tensor

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence from the standard normal, `[B]`."""
        terms = 0.5 * (self.mean.square() + self.std.square() - 1.0) - self.std.log()
        return terms.sum(1)


class LatentPath(nn.Module):
    """A forecaster by a latent path from the window's start to the last horizon.

    A GRU reads the readings from the newest to the oldest and gives q(z0); `path` makes of z0 what
    the decoder sees at every time of `grid`. The decoder turns that into a reading, relative to the
    last one: the forecast is by how much the decoded path rises from the origin to the horizon, the
    reconstruction is the decoded path at each reading's own time, interpolated linearly between
    times 15 minutes apart (readings older than the window count as read at its start).
    `penalty` is the rest of the evidence lower bound: `reconstruction` times the readings' mean
    negative log likelihood plus `divergence` times KL(q(z0) | N(0, 1)). In training z0 is drawn,
    else it is q's mean. q begins narrow and its divergence weighs little, because what is forecast
    has to come through z0.
    """

    grid: Tensor

    def __init__(
        self,
        horizons: Sequence[float],
        width: int,
        *,
        seen: int,
        controls: int,
        linear: bool,
    ) -> None:
        """Make all but the path; the decoder sees `seen` numbers at each time."""
        super().__init__()
        self.horizons = check_horizons(horizons)
        self.linear = LinearPath(len(self.horizons)) if linear else None
        self.controls = controls
        self.absorption = Absorption(controls) if controls else None
        self.recognition = nn.GRU(4 + controls, width, batch_first=True)
        self.posterior = nn.Sequential(
            nn.Linear(width + 1, width), nn.SiLU(), nn.Linear(width, 2 * LATENT)
        )
        times = _grid(self.horizons)
        self.register_buffer("grid", torch.tensor(times))
        self.at_origin_and_horizons = [times.index(time) for time in (0.0, *self.horizons)]
        self.decoder = nn.Sequential(nn.Linear(seen, width), nn.SiLU(), silent(width, 3))
        self.reconstruction = 0.1
        self.divergence = 1e-4

    @abstractmethod
    def path(self, start: Tensor, intakes: Intakes | None) -> Tensor:
        """Return what the decoder sees at each time of `grid`, `[T, B, seen]`, from z0."""

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
        readings = ordered(times, values, mask, newest_first=True)
        last = readings.values[:, :1]
        base = last.expand(-1, len(self.horizons)) if self.linear is None else self.linear(readings)
        posterior = self.recognise(readings, intakes)
        start = posterior.mean
        if self.training:
            start = start + posterior.std * torch.randn_like(start)
        path = self.path(start, intakes)
        reading, spread, _ = self.decoder(path[self.at_origin_and_horizons]).unbind(2)
        rise = (reading[1:] - reading[0]).transpose(0, 1)
        std = F.softplus(spread[1:]).transpose(0, 1) + LEAST_STD
        penalty = self.reconstruction * self._reconstruct(path, readings).mean()
        penalty = penalty + self.divergence * posterior.divergence().mean()
        return Forecast(base + rise, std, penalty)

    def recognise(self, readings: Readings, intakes: Intakes | None = None) -> Posterior:
        """Return q(z0) for readings, newest first."""
        last = readings.values[:, :1]
        inputs = features(readings, last)
        if self.absorption is not None and intakes is not None:
            inputs = torch.cat((inputs, self.absorption(readings.times, intakes)), 2)
        hidden, _ = self.recognition(inputs)
        end = hidden[torch.arange(len(hidden)), readings.length - 1]
        mean, spread = self.posterior(torch.cat((end, last), 1)).chunk(2, 1)
        return Posterior(mean, F.softplus(spread - 3.0) + LEAST_STD)

    def _reconstruct(self, path: Tensor, readings: Readings) -> Tensor:
        """Return each row's mean negative log likelihood of its readings, `[B]`, sans constants."""
        decoded, _, spread = self.decoder(self._at(path, readings.times)).unbind(2)
        std = F.softplus(spread) + LEAST_STD
        off = (readings.values - readings.values[:, :1] - decoded) / std
        terms = torch.where(readings.mask, 0.5 * off.square() + std.log(), 0.0)
        return terms.sum(1) / readings.length

    def _at(self, path: Tensor, times: Tensor) -> Tensor:
        """Return states `[B, L, seen]` at times `[B, L]` from the path `[T, B, seen]`."""
        grid = self.grid
        inside = times.clamp(float(grid[0]), float(grid[-1])).contiguous()
        right = torch.searchsorted(grid, inside, right=True).clamp(1, len(grid) - 1)
        share = ((inside - grid[right - 1]) / (grid[right] - grid[right - 1])).unsqueeze(-1)
        rows = torch.arange(path.shape[1], device=path.device).unsqueeze(1)
        return torch.lerp(path[right - 1, rows], path[right, rows], share)


def _grid(horizons: Sequence[float]) -> list[float]:
    """Return the stored times: the window's start, every quarter of an hour, and the horizons."""
    steps = round((WINDOW + horizons[-1]) / _GRID)
    regular = {-WINDOW + _GRID * step for step in range(steps + 1)}
    return sorted(regular | {0.0} | set(horizons))
