"""What was measured, checked once, and cut into stretches that are solved side by side."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ode_core import ArgumentError

_F64 = torch.float64


class Readings(NamedTuple):
    """Times `[N, T]`, values `[N, T, M]` with NaN where there is none, their standard deviations.

    All in float64; `sigma` is like the values. `single` says that they were given without `[N]`.
    """

    times: Tensor
    values: Tensor
    sigma: Tensor
    single: bool

    @property
    def present(self) -> Tensor:
        """Which values are there, `[N, T, M]` bool."""
        return ~self.values.isnan()


def as_readings(t: Any, data: Any, sigma: Any) -> Readings:
    """Return the user's readings; raises ArgumentError for shapes and values that do not fit."""
    values, times = (torch.as_tensor(x, dtype=_F64).detach().cpu() for x in (data, t))
    single = values.dim() == 2
    values = values[None] if single else values
    if values.dim() != 3 or times.dim() not in (1, 2) or times.shape[-1] != values.shape[1]:
        raise ArgumentError(
            "data is [T, M], or [N, T, M] for N trajectories, and t is [T] or [N, T]; got data "
            f"{list(torch.as_tensor(data).shape)} and t {list(times.shape)}"
        )
    times = times.expand(values.shape[:2])
    if times.shape[1] < 2 or not bool((times.diff(dim=1) > 0.0).all()):
        raise ArgumentError("t is two times or more, strictly rising and finite in each row")
    if bool(values.isinf().any()) or bool(values.isnan().all()):
        raise ArgumentError("data holds finite readings, and NaN where one is missing")
    spread = torch.as_tensor(1.0 if sigma is None else sigma, dtype=_F64).cpu()
    try:
        spread = spread.expand(values.shape)
    except RuntimeError:
        raise ArgumentError(
            f"sigma is a number or broadcasts to the data {list(values.shape)}; got "
            f"{list(spread.shape)}"
        ) from None
    if not bool((spread[~values.isnan()] > 0.0).all()):
        raise ArgumentError("sigma, the standard deviation of each reading, is above 0")
    return Readings(times, values, spread, single)


class Stretches(NamedTuple):
    """The rows of one solve: stretch after stretch of trajectory after trajectory.

    `places` are the readings of each, `[B, K]`, the last of a stretch being the first of the next,
    with -1 as padding; `trajectory` is whose they are, `[B]`; `joined` are the rows that another
    follows, and `counted` says which places' readings belong to the row, `[B, K]` bool.
    """

    places: Tensor
    trajectory: Tensor
    joined: Tensor
    counted: Tensor

    @property
    def ends(self) -> Tensor:
        """The index among its own places of each row's last one, `[B]`."""
        return (self.places >= 0).sum(1) - 1

    def times(self, readings: Readings) -> Tensor:
        """Return the times of each row, `[B, K]`, padded with NaN."""
        taken = readings.times[self.trajectory[:, None], self.places.clamp(min=0)]
        return torch.where(self.places >= 0, taken, torch.nan)


def cut(readings: Readings, count: int) -> Stretches:
    """Return each trajectory in `count` stretches of about as many readings.

    Raises ArgumentError where there are fewer intervals than that.
    """
    rows, length = readings.times.shape
    if not 1 <= count <= length - 1:
        raise ArgumentError(
            f"stretches is from 1 to {length - 1}, the number of intervals between times; got "
            f"{count}"
        )
    edges = [round(i * (length - 1) / count) for i in range(count + 1)]
    width = max(b - a for a, b in pairwise(edges)) + 1
    places = torch.full((count, width), -1)
    for row, (a, b) in enumerate(pairwise(edges)):
        places[row, : b - a + 1] = torch.arange(a, b + 1)
    counted = places >= 0
    ends = counted.sum(1) - 1
    counted[torch.arange(count - 1), ends[:-1]] = False
    joined = torch.arange(rows * count)
    return Stretches(
        places.repeat(rows, 1),
        torch.arange(rows).repeat_interleave(count),
        joined[joined % count != count - 1],
        counted.repeat(rows, 1),
    )
