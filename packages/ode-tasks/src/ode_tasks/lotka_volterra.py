"""Lotka-Volterra: recover prey and predators from irregular samples of their numbers."""

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

_GROWTH, _CAUGHT, _BORN, _DEATH = 1.0, 0.5, 0.25, 0.75


def predation(t: Tensor, y: Tensor) -> Tensor:
    """Return (x - 0.5 x y, 0.25 x y - 0.75 y) for states (x, y), `[N, 2]`: prey and predators."""
    prey, predators = y.unbind(-1)
    met = prey * predators
    return torch.stack((_GROWTH * prey - _CAUGHT * met, _BORN * met - _DEATH * predators), dim=-1)


SYSTEM = System(
    "lotka_volterra",
    r"$x' = x - xy/2,\ y' = xy/4 - 3y/4$",
    predation,
    Box((1.0, 0.5), (5.0, 3.5)),
    duration=8.0,
)

PRESETS = load("lotka_volterra.toml", DynamicsSettings)


class LotkaVolterra:
    """The task `lotka_volterra`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on samples of the two populations and return the metrics."""
        return recover(config, choose(PRESETS, config), SYSTEM, progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss."""
        return probe(config, choose(PRESETS, config), SYSTEM)
