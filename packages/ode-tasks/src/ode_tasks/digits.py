"""Digits: classify the 8x8 grey images of handwritten digits that scikit-learn ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ode_core.errors import ArgumentError
from ode_tasks.classification import ImageSettings, classify, probe
from ode_tasks.data import digits
from ode_tasks.presets import load
from ode_tasks.settings import choose

if TYPE_CHECKING:
    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.images import Split
    from ode_tasks.gradients.probe import Probe

PRESETS = load("digits.toml", ImageSettings)


class Digits:
    """The task `digits`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on the digits and return the metrics; raises ArgumentError for `config.data`."""
        settings = choose(PRESETS, config)
        return classify(config, settings, _images(config, settings), progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch and its loss; raises ArgumentError for `config.data`."""
        settings = choose(PRESETS, config)
        return probe(config, settings, _images(config, settings))


def _images(config: RunConfig, settings: ImageSettings) -> Split:
    if config.data is not None:
        raise ArgumentError(
            f"the task digits has its images built in and reads none from {config.data}; leave "
            "out --data, or take the task cifar10"
        )
    return digits.load(settings.train_images, settings.test_images)
