"""Spiral: recover a field with cubic dynamics (Chen et al. 2018, arXiv 1806.07366) from samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ode_tasks.data.trajectories import Box, System
from ode_tasks.dynamics import DynamicsSettings, probe, recover
from ode_tasks.presets import load
from ode_tasks.settings import choose

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.gradients.probe import Probe

_DECAY, _RATE = 0.1, 2.0


def cubic(t: Tensor, y: Tensor) -> Tensor:
    """Return y³ A for states `[N, 2]` as rows, A = [[-0.1, 2], [-2, -0.1]]."""
    return y**3 @ y.new_tensor([[-_DECAY, _RATE], [-_RATE, -_DECAY]])


SYSTEM = System("spiral", "$dy/dt = y^3 A$", cubic, Box((-2.0, -2.0), (2.0, 2.0)), duration=2.0)

PRESETS = load("spiral.toml", DynamicsSettings)


class Spiral:
    """The task `spiral`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on samples of the spiral and return the metrics."""
        return recover(config, choose(PRESETS, config), SYSTEM, progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss."""
        return probe(config, choose(PRESETS, config), SYSTEM)
