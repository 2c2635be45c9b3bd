"""Linear: recover a damped rotation from samples of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ode_tasks.data.trajectories import Ring, System
from ode_tasks.dynamics import DynamicsSettings, probe, recover
from ode_tasks.presets import load
from ode_tasks.settings import choose

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.gradients.probe import Probe

_DECAY, _RATE = 0.1, 2.0


def rotation(t: Tensor, y: Tensor) -> Tensor:
    """Return A y for states `[N, 2]`, A = [[-0.1, 2], [-2, -0.1]]."""
    return y @ y.new_tensor([[-_DECAY, -_RATE], [_RATE, -_DECAY]])


SYSTEM = System("linear", "$dy/dt = A y$", rotation, Ring(0.5, 2.0), duration=6.0)

PRESETS = load("linear.toml", DynamicsSettings)


class Linear:
    """The task `linear`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on samples of the rotation and return the metrics."""
        return recover(config, choose(PRESETS, config), SYSTEM, progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss."""
        return probe(config, choose(PRESETS, config), SYSTEM)
