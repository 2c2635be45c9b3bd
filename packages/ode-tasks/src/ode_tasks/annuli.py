"""Annuli: tell a ball from the shell around it, which no flow of their space pulls apart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ode_core.errors import ArgumentError
from ode_tasks.data.points import annuli
from ode_tasks.presets import load
from ode_tasks.settings import choose, options
from ode_tasks.supervised import (
    Experiment,
    SampleSettings,
    labelled,
    learn,
    own_samples,
    probe,
)

if TYPE_CHECKING:
    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.gradients.probe import Probe

_TRAIN_SEED, _TEST_SEED = 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnuliSettings(SampleSettings):
    """The settings of the task: dimensions, further ones, the weights of RNODE's regularisers."""

    dim: int = 2
    augment: int = 0
    kinetic: float = 0.0
    jacobian: float = 0.0

    def __post_init__(self) -> None:
        """Raise ArgumentError for points of no dimension."""
        super().__post_init__()
        if self.dim < 1:
            raise ArgumentError(f"dim is a number of dimensions from 1; it is {self.dim}")


PRESETS = load("annuli.toml", AnnuliSettings)


class Annuli:
    """The task `annuli`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on the points and return the metrics."""
        settings = choose(PRESETS, config)
        return learn(config, settings, _experiment(config, settings), progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of the points and its loss."""
        settings = choose(PRESETS, config)
        return probe(config, settings, _experiment(config, settings))


def _experiment(config: RunConfig, settings: AnnuliSettings) -> Experiment:
    own_samples(config)
    size = {"dim": settings.dim, "classes": 2, "width": settings.width}
    return Experiment(
        annuli(settings.train_samples, settings.dim, seed=_TRAIN_SEED),
        annuli(settings.test_samples, settings.dim, seed=_TEST_SEED),
        size | options(settings, "augment", "kinetic", "jacobian"),
        labelled,
        inputs=1,
        score_name="accuracy",
        higher_is_better=True,
    )
