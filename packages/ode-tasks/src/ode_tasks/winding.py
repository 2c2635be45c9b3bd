"""Winding: tell clockwise from anticlockwise spirals at irregular times, readings missing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ode_core.errors import ArgumentError
from ode_tasks.data.series import spirals
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
class WindingSettings(SampleSettings):
    """The settings of the task: `data.series.spirals`', and a neural CDE's interpolation.

    An empty `interpolation` leaves it to the model.
    """

    length: int
    dropped: float = 0.3
    missing: float = 0.1
    noise: float = 0.3
    interpolation: str = ""

    def __post_init__(self) -> None:
        """Raise ArgumentError for series that no reading would be left of."""
        super().__post_init__()
        if self.length < 2 or self.noise < 0.0:
            raise ArgumentError(
                "length is at least 2 and noise not negative; they are "
                f"{self.length} and {self.noise}"
            )
        if not (0.0 <= self.dropped < 1.0 and 0.0 <= self.missing < 1.0):
            raise ArgumentError(
                "dropped and missing are parts from 0 and below 1; they are "
                f"{self.dropped} and {self.missing}"
            )


PRESETS = load("winding.toml", WindingSettings)


class Winding:
    """The task `winding`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on the spirals and return the metrics."""
        settings = choose(PRESETS, config)
        return learn(config, settings, _experiment(config, settings), progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of the spirals and its loss."""
        settings = choose(PRESETS, config)
        return probe(config, settings, _experiment(config, settings))


def _experiment(config: RunConfig, settings: WindingSettings) -> Experiment:
    own_samples(config)
    names = ("dropped", "missing", "noise")
    kind = {name: getattr(settings, name) for name in names}
    size = {"channels": 2, "classes": 2, "width": settings.width}
    return Experiment(
        tuple(spirals(settings.train_samples, settings.length, seed=_TRAIN_SEED, **kind)),
        tuple(spirals(settings.test_samples, settings.length, seed=_TEST_SEED, **kind)),
        size | options(settings, "interpolation"),
        labelled,
        inputs=2,
        score_name="accuracy",
        higher_is_better=True,
    )
