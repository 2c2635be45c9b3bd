"""A neural controlled differential equation, for series at irregular times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ode_core import ArgumentError, Control
from ode_models.block import ODEBlock
from ode_models.gaps import across, counts

if TYPE_CHECKING:
    from ode_core import GradientMethod, Solver

KINDS = ("hermite", "cubic", "linear")


class NeuralCDE(nn.Module):
    """dz = g(z) dX along a path X through the readings, from z(0) = h(X(0)) to a linear read-out.

    X holds the time, the values and how many readings of each channel there were so far, so that
    gaps are seen and need not be filled beforehand. `interpolation` is how X goes between readings:
    "hermite" (cubics with backward differences, the default), "cubic" (natural spline) or "linear".
    The equation does not change with the pace at which X is gone through, so that the solve runs
    over [0, 1] with reading k of L at k / (L - 1) in every row: rows with other times share steps,
    and a step of a solver with fixed steps is at most from reading to reading.

    Source: Kidger, Morrill, Foster, Lyons, Neural controlled differential equations for irregular
    time series, NeurIPS 2020; the interpolation: Morrill et al., TMLR 2022.

    Raises ArgumentError for an interpolation that is none of these, and what `ODEBlock` raises.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        *,
        interpolation: str = "hermite",
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        if interpolation not in KINDS:
            raise ArgumentError(
                f"interpolation is one of {', '.join(KINDS)}; got {interpolation!r}"
            )
        self.interpolation = interpolation
        self.start = nn.Linear(1 + 2 * channels, width)
        self.block = ODEBlock(
            CDEField(width, 1 + 2 * channels),
            solver=solver,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            dt=dt,
        )
        self.head = nn.Linear(width, classes)

    def forward(self, times: Tensor, values: Tensor) -> Tensor:
        """Return logits `[B, classes]` of series `[B, L, channels]` at times `[B, L]`, rising.

        A value that is NaN was not read. Rows end where their times are NaN. Raises ArgumentError
        for series of fewer than two times.
        """
        if values.dim() != 3 or times.shape != values.shape[:2] or times.shape[1] < 2:
            raise ArgumentError(
                "times are [B, L] and values [B, L, channels], L at least 2; got "
                f"{list(times.shape)} and {list(values.shape)}"
            )
        path = self.path(times, values)
        knots = torch.linspace(0.0, 1.0, path.shape[1], dtype=torch.float64)
        control = Control(knots, path, self.interpolation, per_sample=True)
        logits: Tensor = self.head(self.block(self.start(path[:, 0]), control))
        return logits

    def path(self, times: Tensor, values: Tensor) -> Tensor:
        """Return X at the readings, `[B, L, 1 + 2 channels]`; it rests after the end of a row."""
        values = values.to(self.head.weight.dtype)
        ended = times.isnan()
        rising = times.masked_fill(ended, -torch.inf).cummax(1).values.to(values)
        values = values.masked_fill(ended[..., None], torch.nan)
        return torch.cat([rising[..., None], across(rising, values), counts(times, values)], 2)


class CDEField(nn.Module):
    """g(z) dX/dt, `[B, width]`: a perceptron with one hidden layer gives g, `[width, channels]`.

    A tanh at its end keeps g bounded over the many readings of a series.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width * channels), nn.Tanh()
        )

    def forward(self, t: Tensor, z: Tensor, control: Control) -> Tensor:
        """Return dz/dt at the time `t`, 0-d, where the path goes through `control`."""
        g = self.layers(z).unflatten(1, (-1, self.channels))
        return torch.einsum("bwc,bc->bw", g, control.derivative(t))
