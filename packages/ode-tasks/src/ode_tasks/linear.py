"""Linear: recover a damped rotation from samples of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ode_tasks.data.trajectories import System
from ode_tasks.dynamics import DynamicsSettings, recover
from ode_tasks.settings import choose

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.protocols import Progress, RunConfig

_DECAY, _RATE = 0.1, 2.0


def rotation(t: Tensor, y: Tensor) -> Tensor:
    """Return A y for states `[N, 2]`, A = [[-0.1, 2], [-2, -0.1]]."""
    return y @ y.new_tensor([[-_DECAY, -_RATE], [_RATE, -_DECAY]])


SYSTEM = System("linear", "$dy/dt = A y$", rotation, radii=(0.5, 2.0), duration=6.0)

# dt is one sampling interval: coarse enough that the order of a fixed-step solver shows.
PRESETS = {
    "smoke": DynamicsSettings(
        epochs=20,
        batch=32,
        learning_rate=0.03,
        width=32,
        dt=0.1,
        trajectories=8,
        test_trajectories=16,
        samples=60,
        window=6,
    ),
    "quick": DynamicsSettings(
        epochs=40,
        batch=64,
        learning_rate=0.01,
        width=64,
        rtol=1e-4,
        atol=1e-5,
        dt=0.1,
        trajectories=32,
        test_trajectories=64,
        samples=60,
        window=10,
    ),
    "full": DynamicsSettings(
        epochs=200,
        batch=128,
        learning_rate=0.005,
        width=128,
        rtol=1e-5,
        atol=1e-6,
        dt=0.1,
        trajectories=128,
        test_trajectories=256,
        samples=60,
        window=10,
    ),
}


class Linear:
    """The task `linear`."""

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on samples of the rotation and return the metrics."""
        return recover(config, choose(PRESETS, config), SYSTEM, progress=progress)
