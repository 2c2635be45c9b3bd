"""What forecasters share: their result, readings in order, and a linear predictor to start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ode_core import ArgumentError

WINDOW = 4.0
"""Hours of readings before a forecast's origin that the models look at."""

LEAST_STD = 1e-3


class Forecast(NamedTuple):
    """Mean and standard deviation at each horizon, `[B, H]`, and a 0-d addition to the loss."""

    mean: Tensor
    std: Tensor
    penalty: Tensor


class Readings(NamedTuple):
    """Readings with the padding behind them, all `[B, L]`: hours, values, and which are real."""

    times: Tensor
    values: Tensor
    mask: Tensor

    @property
    def length(self) -> Tensor:
        """The number of real readings, `[B]`."""
        return self.mask.sum(1)


def check_horizons(horizons: Sequence[float]) -> tuple[float, ...]:
    """Return horizons in hours; raises ArgumentError unless they rise from above 0."""
    given = tuple(float(horizon) for horizon in horizons)
    if not given or list(given) != sorted(set(given)) or given[0] <= 0.0:
        raise ArgumentError(f"horizons are hours above 0, rising; got {list(given)}")
    return given


def ordered(times: Tensor, values: Tensor, mask: Tensor, *, newest_first: bool) -> Readings:
    """Return readings in order of time with the padding, all zeros, at the end.

    What the mask leaves out is not looked at. Raises ArgumentError for a row without any reading,
    and for a reading that is not finite or lies after the origin.
    """
    usable = torch.isfinite(values) & torch.isfinite(times) & (times <= 0.0)
    if not bool((usable | ~mask).all() & mask.any(1).all()):
        raise ArgumentError(
            "every row needs a reading to forecast from, and readings are finite at times up to "
            "the origin at 0; set the mask to False where they are not, and leave out empty rows"
        )
    times = times.to(values.dtype)
    key = torch.where(mask, -times if newest_first else times, torch.inf)
    order = key.argsort(dim=1, stable=True)
    mask = mask.gather(1, order)
    times = torch.where(mask, times.gather(1, order), 0.0)
    return Readings(times, torch.where(mask, values.gather(1, order), 0.0), mask)


def differences(x: Tensor, mask: Tensor) -> Tensor:
    """Return each entry of `[B, L]` minus the one before it, 0 for the first and for padding."""
    change = torch.zeros_like(x)
    change[:, 1:] = x[:, 1:] - x[:, :-1]
    return torch.where(mask, change, 0.0)


def features(readings: Readings, last: Tensor) -> Tensor:
    """Return a network's inputs `[B, L, 4]`: value above the last, change, gap, time; 0 as padding.

    Values are relative to the last reading, `[B, 1]`: a network that sees levels learns the people
    it is trained on. Changes and gaps are scaled to size 1 for readings five minutes apart.
    """
    times, values, mask = readings
    change, gap = differences(values, mask), differences(times, mask).abs()
    parts = (values - last, 4.0 * change, 12.0 * gap - 1.0, times)
    return torch.where(mask.unsqueeze(-1), torch.stack(parts, -1), 0.0)


def silent(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that begins at zero: the first forecast is the base's own."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class LinearPath(nn.Module):
    """A linear predictor on irregular readings: the last value plus weighted changes before it.

    A change between two readings counts with a weight that depends linearly on its age between
    knots, denser towards the origin. It begins as the forecast "as now", all weights 0; what it
    can express is what a ridge regression on regular readings can.
    """

    knots: Tensor

    def __init__(self, horizons: int) -> None:
        super().__init__()
        minutes = [2.5 + 5.0 * i for i in range(12)]
        minutes += [65.0 + 10.0 * i for i in range(6)] + [130.0 + 20.0 * i for i in range(6)]
        self.register_buffer("knots", torch.tensor(minutes) / 60.0)
        self.changes = nn.Parameter(torch.zeros(len(minutes), horizons))
        self.level = nn.Parameter(torch.zeros(2, horizons))

    def forward(self, readings: Readings) -> Tensor:
        """Return forecasts `[B, H]` from readings, newest first."""
        times, values, mask = readings
        # 4: as in `features`, so that the weights are of size 1.
        change = torch.where(mask[:, 1:], 4.0 * (values[:, :-1] - values[:, 1:]), 0.0)
        age = torch.where(mask[:, 1:], -0.5 * (times[:, 1:] + times[:, :-1]), 0.0)
        features = torch.einsum("bl,blk->bk", change, self._hats(age))
        last = values[:, :1]
        return last + self.level[0] + last * self.level[1] + features @ self.changes

    def _hats(self, age: Tensor) -> Tensor:
        """Return the weight of every knot for ages `[B, L]`: two neighbours share it."""
        knots = self.knots
        age = age.clamp(float(knots[0]), float(knots[-1])).contiguous()
        right = torch.searchsorted(knots, age, right=True).clamp(1, len(knots) - 1)
        share = (age - knots[right - 1]) / (knots[right] - knots[right - 1])
        left_hat = F.one_hot(right - 1, len(knots)) * (1.0 - share).unsqueeze(-1)
        return left_hat + F.one_hot(right, len(knots)) * share.unsqueeze(-1)
