"""The latent ODE: a recognition network run backwards in time, a latent ODE, a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ode_models.block import ODEBlock, append_time
from ode_models.intakes import Absorption, Intakes
from ode_models.latent import LATENT, LatentPath

if TYPE_CHECKING:
    from ode_core import GradientMethod, Solver


class LatentODE(LatentPath):
    """One latent trajectory a row, from the window's start through its readings to the horizons.

    The latent ODE is solved once, from the window's start to the last horizon, on one time grid for
    the whole batch; `LatentPath` has the rest. With `linear` (the default) the forecast corrects a
    linear predictor, without it the last value; an ODE that stood still would add nothing to
    either. The field knows the time, which makes the way from the window's start to the horizons
    short to learn. `horizons` are hours above 0, rising; `controls` is the number of kinds of
    intake that drive the field (see `Absorption`).

    Source: Chen et al. 2018, section 5; Rubanova, Chen, Duvenaud, NeurIPS 2019, section 3.
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
        super().__init__(horizons, width, seen=LATENT, controls=controls, linear=linear)
        self.block = ODEBlock(
            _Field(width, self.absorption),
            self.grid.tolist(),
            solver=solver,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            dt=dt,
        )

    def path(self, start: Tensor, intakes: Intakes | None) -> Tensor:
        """Return the latent states `[T, B, latent]`."""
        field: Any = self.block.field
        field.intakes = intakes
        states: Tensor = self.block(start)
        return states


class _Field(nn.Module):
    """dz/dt by a perceptron of z, the time and what is being absorbed, on `[B, latent]`."""

    def __init__(self, width: int, absorption: Absorption | None) -> None:
        super().__init__()
        kinds = 0 if absorption is None else len(absorption.log_hours)
        self.layers = nn.Sequential(
            nn.Linear(LATENT + 1 + kinds, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, LATENT),
        )
        self.absorption = absorption
        self.intakes: Intakes | None = None

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return dz/dt at the time `t`, 0-d, in hours from the origin."""
        inputs = append_time(t, z)
        if self.absorption is not None and self.intakes is not None:
            hours = t.to(self.intakes.times).expand(len(z), 1)
            drive = self.absorption(hours, self.intakes).squeeze(1)
            inputs = torch.cat((inputs, drive.to(z.dtype)), 1)
        slope: Tensor = self.layers(inputs)
        return slope
