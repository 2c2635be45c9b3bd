"""The control of the latent ODE: the same networks around a latent state that stands still."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ode_models.intakes import Intakes
from ode_models.latent import LATENT, LatentPath


class LatentStill(LatentPath):
    """The latent ODE with its ODE replaced by the identity, and the decoder told the time.

    z(t) is z0 at all times, and the decoder sees it with the time (and with what is being absorbed,
    where there are `controls`): what the latent ODE forecasts better than this is what its ODE
    adds. Solves nothing; all else is that of `LatentODE`.
    """

    def __init__(
        self, horizons: Sequence[float], width: int, *, controls: int = 0, linear: bool = True
    ) -> None:
        seen = LATENT + 1 + controls
        super().__init__(horizons, width, seen=seen, controls=controls, linear=linear)

    def path(self, start: Tensor, intakes: Intakes | None) -> Tensor:
        """Return z0, the time and the intakes' u at each time, `[T, B, latent + 1 + controls]`."""
        count = len(self.grid)
        times = self.grid.to(start.dtype)
        parts = [start.expand(count, -1, -1), times[:, None, None].expand(-1, len(start), 1)]
        if self.absorption is not None and intakes is not None:
            parts.append(self.absorption(times.expand(len(start), -1), intakes).transpose(0, 1))
        return torch.cat(parts, 2)
