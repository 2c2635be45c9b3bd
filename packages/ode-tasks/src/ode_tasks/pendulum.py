"""Pendulum: recover a damped second-order system from samples of angle and speed."""

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

_DAMPING = 0.2


def swing(t: Tensor, y: Tensor) -> Tensor:
    """Return (v, -sin(x) - 0.2 v) for states (x, v), `[N, 2]`: angle and angular speed."""
    angle, speed = y.unbind(-1)
    return torch.stack((speed, -angle.sin() - _DAMPING * speed), dim=-1)


SYSTEM = System(
    "pendulum",
    r"$x'' = -\sin x - 0.2 x'$",
    swing,
    Box((-2.0, -0.8), (2.0, 0.8)),
    duration=8.0,
)

PRESETS = load("pendulum.toml", DynamicsSettings)


class Pendulum:
    """The task `pendulum`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on samples of the swing and return the metrics."""
        return recover(config, choose(PRESETS, config), SYSTEM, progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss."""
        return probe(config, choose(PRESETS, config), SYSTEM)
