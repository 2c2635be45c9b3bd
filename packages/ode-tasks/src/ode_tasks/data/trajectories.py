"""Samples of a known system in the plane: what the dynamics tasks train and test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ode_tasks.measure import reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class System:
    """A known vector field `dy/dt = field(t, y)` on `[N, 2]`, and where it is sampled.

    Trajectories start at a distance from the origin within `radii` and are sampled for `duration`;
    what comes after that, for as long again, lies beyond the training window.
    """

    name: str
    formula: str
    field: Callable[[Tensor, Tensor], Tensor]
    radii: tuple[float, float]
    duration: float


@dataclass(frozen=True)
class Trajectories:
    """`times` is `[T]` float64, `states` `[T, N, 2]` float32."""

    times: Tensor
    states: Tensor

    def part(self, start: int, stop: int) -> Trajectories:
        """Return the samples from `start` to before `stop`."""
        return Trajectories(self.times[start:stop], self.states[start:stop])


def sample(system: System, count: int, samples: int, *, spans: int, seed: int) -> Trajectories:
    """Return `count` trajectories with `samples` equal intervals in each of `spans` durations."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    low, high = system.radii
    radius = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    start = radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)
    times = torch.linspace(0, spans * system.duration, spans * samples + 1, dtype=torch.float64)
    return Trajectories(times, reference(system.field, start, times).float())


def noisy(trajectories: Trajectories, noise: float, seed: int) -> Trajectories:
    """Return the trajectories with Gaussian noise of that part of their root mean square."""
    states = trajectories.states
    generator = torch.Generator().manual_seed(seed)
    scale = noise * states.square().mean().sqrt()
    return Trajectories(
        trajectories.times, states + scale * torch.randn(states.shape, generator=generator)
    )


def windows(trajectories: Trajectories, length: int) -> tuple[Tensor, Tensor]:
    """Return every stretch of `length` intervals: starts `[M, 2]` and states `[M, length, 2]`."""
    stretches = trajectories.states.unfold(0, length + 1, 1)  # [T - length, N, 2, length + 1]
    stretches = stretches.permute(0, 1, 3, 2).flatten(0, 1)
    return stretches[:, 0].contiguous(), stretches[:, 1:].contiguous()
