"""Vector fields: a multilayer perceptron, and two convolutions that know the time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from ode_models.block import append_time

if TYPE_CHECKING:
    from torch import Tensor


class MLPField(nn.Module):
    """dy/dt by a perceptron with two hidden layers of `width`, on `[..., dim]`.

    It does not see the time: the systems that it is fitted to are autonomous.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, dim),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[..., dim]`, at any time."""
        del t
        slope: Tensor = self.layers(y)
        return slope


class MeasuredMLPField(nn.Module):
    """dy/dt by a perceptron with `depth` hidden layers of `width`, on `[..., dim]`, in its units.

    It does not see the time. `measure_in` sets the units of states and slopes, which are part of
    its state dict: the perceptron sees numbers near 1 whatever the system is measured in. The
    activation grows like its input (SiLU), which follows a polynomial field better than tanh.
    """

    state_unit: Tensor
    slope_unit: Tensor

    def __init__(self, dim: int, width: int, *, depth: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size, following in pairwise([dim, *[width] * depth]):
            layers += [nn.Linear(size, following), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))
        self.register_buffer("state_unit", torch.ones(dim))
        self.register_buffer("slope_unit", torch.ones(dim))

    @torch.no_grad()
    def measure_in(self, state: Tensor, slope: Tensor) -> None:
        """Measure states and slopes in these units, `[dim]` each and above 0."""
        self.state_unit.copy_(state)
        self.slope_unit.copy_(slope)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[..., dim]`, at any time."""
        del t
        slope: Tensor = self.layers(y / self.state_unit) * self.slope_unit
        return slope


class TimeMLPField(nn.Module):
    """dy/dt by a perceptron with two hidden layers of `width` and the time, on `[B, dim]`."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[B, dim]`, at the time `t`, 0-d."""
        slope: Tensor = self.layers(append_time(t, y))
        return slope


def groups(width: int) -> int:
    """Return the number of groups of a norm over `width` channels: eight channels or more each.

    A group of one or two channels would normalise away what they say about the image as a whole,
    which is all that the head's average pooling sees.
    """
    fitting = (count for count in (8, 4, 2) if width % count == 0 and width >= 8 * count)
    return next(fitting, 1)


class ConvField(nn.Module):
    """dy/dt by two 3x3 convolutions with group norms between them, on `[B, width, H, W]`.

    With `timed` each convolution has the time as one more channel. Norms are over groups, not the
    batch: a batch's statistics would change with every evaluation within one solve. The activation
    is smooth (GELU): across the kinks of ReLU the adjoint's solve backwards and an adaptive
    solver's error estimate are both wrong.
    """

    def __init__(self, width: int, *, timed: bool = True) -> None:
        super().__init__()
        self.timed = timed
        extra = 1 if timed else 0
        self.norm1 = nn.GroupNorm(groups(width), width)
        self.conv1 = nn.Conv2d(width + extra, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups(width), width)
        self.conv2 = nn.Conv2d(width + extra, width, 3, padding=1)
        self.norm3 = nn.GroupNorm(groups(width), width)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[B, width, H, W]`."""
        inner = self.conv1(self._with_time(t, nn.functional.gelu(self.norm1(y))))
        inner = self.conv2(self._with_time(t, nn.functional.gelu(self.norm2(inner))))
        slope: Tensor = self.norm3(inner)
        return slope

    def _with_time(self, t: Tensor, y: Tensor) -> Tensor:
        return append_time(t, y) if self.timed else y


NO_TIME = torch.zeros(())
"""The time of a field that does not see it."""
