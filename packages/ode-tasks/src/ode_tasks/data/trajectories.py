"""Samples of a known system in the plane: what the dynamics tasks train and test on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from ode_tasks.measure import reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Starts(Protocol):
    """Where trajectories start."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return starts, `[count, 2]` float64."""


@dataclass(frozen=True)
class Ring:
    """Starts in any direction, at a distance from the origin between `inner` and `outer`."""

    inner: float
    outer: float

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return starts, `[count, 2]` float64."""
        angle = 2 * torch.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        radius = self.inner + (self.outer - self.inner) * share
        return radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)


@dataclass(frozen=True)
class Box:
    """Starts uniform between the corners `low` and `high`."""

    low: tuple[float, float]
    high: tuple[float, float]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return starts, `[count, 2]` float64."""
        low = torch.tensor(self.low, dtype=torch.float64)
        high = torch.tensor(self.high, dtype=torch.float64)
        return low + (high - low) * torch.rand(count, 2, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class System:
    """A known vector field `dy/dt = field(t, y)` on `[N, 2]`, and where it is sampled.

    Trajectories start at `starts` and are sampled for `duration`; what comes after that, for as
    long again, lies beyond the training window.
    """

    name: str
    formula: str
    field: Callable[[Tensor, Tensor], Tensor]
    starts: Starts
    duration: float


@dataclass(frozen=True)
class Trajectories:
    """`times` is `[T]` float64, `[N, T]` where each has its own; `states` `[T, N, 2]` float32."""

    times: Tensor
    states: Tensor

    def part(self, start: int, stop: int) -> Trajectories:
        """Return the samples from `start` to before `stop`."""
        return Trajectories(self.times[..., start:stop], self.states[start:stop])


def sample(system: System, count: int, samples: int, *, spans: int, seed: int) -> Trajectories:
    """Return `count` trajectories with `samples` equal intervals in each of `spans` durations."""
    generator = torch.Generator().manual_seed(seed)
    start = system.starts.draw(count, generator)
    times = torch.linspace(0, spans * system.duration, spans * samples + 1, dtype=torch.float64)
    return Trajectories(times, reference(system.field, start, times).float())


def sample_irregular(system: System, count: int, samples: int, *, seed: int) -> Trajectories:
    """Return `count` trajectories, each at its start and at `samples` random times of its own.

    The times are uniform in the duration, `[count, samples + 1]`; no two are nearer than a
    hundredth of their mean distance.
    """
    generator = torch.Generator().manual_seed(seed)
    start = system.starts.draw(count, generator)
    gaps = 0.01 + torch.empty(count, samples + 1, dtype=torch.float64).exponential_(
        generator=generator
    )
    # Sorted uniform times are sums of exponential gaps over the sum of all.
    times = system.duration * gaps.cumsum(1)[:, :-1] / gaps.sum(1, keepdim=True)
    times = torch.cat([torch.zeros_like(times[:, :1]), times], dim=1)
    union, place = times.flatten().unique(return_inverse=True)
    every = reference(system.field, start, union)
    own = every[place.view(times.shape), torch.arange(count)[:, None]]
    return Trajectories(times, own.transpose(0, 1).float())


def noisy(trajectories: Trajectories, noise: float, seed: int) -> Trajectories:
    """Return the trajectories with Gaussian noise of that standard deviation."""
    states = trajectories.states
    generator = torch.Generator().manual_seed(seed)
    return replace(
        trajectories, states=states + noise * torch.randn(states.shape, generator=generator)
    )


def windows(trajectories: Trajectories, length: int) -> tuple[Tensor, ...]:
    """Return every stretch of `length` intervals: starts `[M, 2]` and states `[M, length, 2]`.

    Where each trajectory has its own times, those of a stretch come third, `[M, length + 1]` from
    0 on.
    """
    stretches = trajectories.states.unfold(0, length + 1, 1)  # [T - length, N, 2, length + 1]
    stretches = stretches.permute(0, 1, 3, 2).flatten(0, 1)
    parts = stretches[:, 0].contiguous(), stretches[:, 1:].contiguous()
    if trajectories.times.dim() == 1:
        return parts
    times = trajectories.times.unfold(1, length + 1, 1).transpose(0, 1).flatten(0, 1)
    return *parts, times - times[:, :1]
