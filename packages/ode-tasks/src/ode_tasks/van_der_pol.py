"""Van der Pol: recover a relaxation oscillation, stiff on its slow branches, from samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ode_tasks.data.trajectories import Box, System
from ode_tasks.dynamics import DynamicsSettings, probe, recover
from ode_tasks.presets import load
from ode_tasks.settings import choose

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.gradients.probe import Probe

_DAMPING = 8.0


def relaxation(t: Tensor, y: Tensor) -> Tensor:
    """Return (v, 8 (1 - x^2) v - x) for states (x, v), `[N, 2]`.

    On the slow branches, |x| > 1, the eigenvalues differ by a factor of up to 500; the jumps
    between the branches take a hundredth of a period.
    """
    place, speed = y.unbind(-1)
    return torch.stack((speed, _DAMPING * (1 - place.square()) * speed - place), dim=-1)


SYSTEM = System(
    "van_der_pol",
    "$x'' = 8 (1 - x^2) x' - x$",
    relaxation,
    Box((-2.5, -2.0), (2.5, 2.0)),
    duration=8.0,
)

PRESETS = load("van_der_pol.toml", DynamicsSettings)


class VanDerPol:
    """The task `van_der_pol`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on samples of the oscillation and return the metrics."""
        return recover(config, choose(PRESETS, config), SYSTEM, progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss."""
        return probe(config, choose(PRESETS, config), SYSTEM)
