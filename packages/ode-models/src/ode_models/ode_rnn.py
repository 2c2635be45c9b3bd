"""The ODE-RNN: a recurrent state that follows an ODE between readings and jumps at each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_core import Stats
from ode_models.block import ODEBlock
from ode_models.forecast import (
    LEAST_STD,
    Forecast,
    LinearPath,
    check_horizons,
    differences,
    features,
    ordered,
    silent,
)
from ode_models.intakes import Absorption, Intakes, as_intakes

if TYPE_CHECKING:
    from ode_core import GradientMethod, Solver


class ODERNN(nn.Module):
    """A hidden state flows by an ODE from reading to reading, and a GRU cell takes each one in.

    From the origin it flows on to the horizons, where a head reads the forecast off. The gaps of
    the rows differ, so that each flow is solved over a time that runs from 0 to 1 in all of them:
    `dt` is a part of the way between two readings, and a tolerance holds for each such way.

    With `linear` (the default) the network corrects a linear predictor, without it the last value.
    `horizons` are hours above 0, rising; `controls` is the number of kinds of intake that drive the
    field (see `Absorption`). `block.stats` counts the solves of all ways of the last call.

    Source: Rubanova, Chen, Duvenaud, NeurIPS 2019, algorithm 1.
    """

    def __init__(
        self,
        horizons: Sequence[float],
        width: int,
        *,
        controls: int = 0,
        linear: bool = True,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        self.horizons = check_horizons(horizons)
        self.linear = LinearPath(len(self.horizons)) if linear else None
        self.controls = controls
        self.cell = nn.GRUCell(4, width)
        self.block = ODEBlock(
            _Way(width, controls), solver=solver, gradient=gradient, rtol=rtol, atol=atol, dt=dt
        )
        self.head = nn.Sequential(nn.Linear(width + 1, width), nn.SiLU(), silent(width, 2))

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
        field: Any = self.block.field
        field.intakes = as_intakes(self.controls, intake_times, intake_amounts)
        readings = ordered(times, values, mask, newest_first=False)
        newest = ordered(times, values, mask, newest_first=True)
        last = newest.values[:, :1]
        base = last.expand(-1, len(self.horizons)) if self.linear is None else self.linear(newest)
        inputs = features(readings, last)
        gaps = differences(readings.times, readings.mask)
        hidden = values.new_zeros(len(values), self.cell.hidden_size)
        costs: list[Stats] = []
        for place in range(inputs.shape[1]):
            if place:
                start = readings.times[:, place - 1]
                hidden = self._flow(hidden, start, gaps[:, place], costs)
            updated = self.cell(inputs[:, place], hidden)
            hidden = torch.where(readings.mask[:, place, None], updated, hidden)
        origin = torch.zeros_like(last[:, 0])
        ahead = []
        for begin, end in pairwise((0.0, *self.horizons)):
            hidden = self._flow(hidden, origin + begin, origin + (end - begin), costs)
            ahead.append(self.head(torch.cat((hidden, last), 1)))
        self.block.stats = _Sum(costs)
        rise, spread = torch.stack(ahead, 1).unbind(2)
        return Forecast(base + rise, F.softplus(spread) + LEAST_STD, values.new_zeros(()))

    def _flow(self, hidden: Tensor, start: Tensor, gap: Tensor, costs: list[Stats]) -> Tensor:
        """Return the state `gap` hours after `start`, both `[B]`; a gap of 0 changes nothing."""
        end: Tensor = self.block(torch.column_stack((hidden, start, gap)))
        if self.block.stats is not None:
            costs.append(self.block.stats)
        return end[:, :-2]


class _Way(nn.Module):
    """d(h, t, gap)/ds on the way from one reading to the next, s from 0 to 1, `[B, width + 2]`."""

    def __init__(self, width: int, controls: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width + controls, width), nn.Tanh(), nn.Linear(width, width)
        )
        self.absorption = Absorption(controls) if controls else None
        self.intakes: Intakes | None = None

    def forward(self, s: Tensor, y: Tensor) -> Tensor:
        """Return the slope; `s` is not looked at, the hour is a part of the state."""
        del s
        hidden, hour, gap = y[:, :-2], y[:, -2:-1], y[:, -1:]
        if self.absorption is not None and self.intakes is not None:
            drive = self.absorption(hour, self.intakes).squeeze(1)
            hidden = torch.cat((hidden, drive.to(hidden.dtype)), 1)
        return torch.cat((gap * self.layers(hidden), gap, torch.zeros_like(gap)), 1)


class _Sum(Stats):
    """What several solves cost together, backward passes that are still to come included."""

    def __init__(self, parts: Sequence[Stats]) -> None:
        self.parts = parts
        super().__init__(
            sum(part.f_calls for part in parts),
            sum(part.accepted for part in parts),
            sum(part.rejected for part in parts),
        )

    @property
    def backward_f_calls(self) -> int:
        """The evaluations in the backward passes of all parts so far."""
        return sum(part.backward_f_calls for part in self.parts)

    @backward_f_calls.setter
    def backward_f_calls(self, value: int) -> None:
        """Ignore what a new `Stats` begins with."""
