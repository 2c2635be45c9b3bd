"""Density: learn a density in the plane from its points, by a continuous normalising flow."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from ode_core.errors import ArgumentError
from ode_tasks.data.points import DENSITIES, density
from ode_tasks.density_plot import draw
from ode_tasks.presets import load
from ode_tasks.settings import choose, options
from ode_tasks.supervised import (
    Experiment,
    SampleSettings,
    learn,
    own_samples,
    probe,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.gradients.probe import Probe
    from ode_tasks.train import Batch

PICTURE = "density.png"

_TRAIN_SEED, _TEST_SEED = 1, 2
_GRID, _MARGIN, _CHUNK = 120, 1.5, 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensitySettings(SampleSettings):
    """The settings of the task: which density, the trace in training, RNODE's weights."""

    density: str = "moons"
    trace: str = "exact"
    kinetic: float = 0.0
    jacobian: float = 0.0

    def __post_init__(self) -> None:
        """Raise ArgumentError for a density that is none."""
        super().__post_init__()
        if self.density not in DENSITIES:
            raise ArgumentError(f"density is one of {', '.join(DENSITIES)}; got {self.density!r}")


PRESETS = load("density.toml", DensitySettings)


class Density:
    """The task `density`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on the points and return the metrics, and with `config.out` leave a picture.

        The score is the mean negative log likelihood of points that were not trained on, in nats;
        `integral` is that of the learned density over a grid around them.
        """
        settings = choose(PRESETS, config)
        experiment = _experiment(config, settings)

        def finish(model: nn.Module) -> dict[str, Any]:
            grid = _Grid.around(experiment.test[0])
            heights = grid.heights(model)
            if config.out is not None:
                draw(config.out / PICTURE, settings.density, experiment.test[0], model, grid.box,
                     heights)  # fmt: skip
            return {"integral": float(heights.sum()) * grid.cell}

        return learn(config, settings, experiment, progress=progress, finish=finish)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of points and its loss."""
        settings = choose(PRESETS, config)
        return probe(config, settings, _experiment(config, settings))


def likelihood(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean negative log likelihood of points, in nats."""
    value: Tensor = -model(batch[0]).mean()
    return value


def _experiment(config: RunConfig, settings: DensitySettings) -> Experiment:
    own_samples(config)
    size = {"dim": 2, "width": settings.width}
    return Experiment(
        (density(settings.density, settings.train_samples, seed=_TRAIN_SEED),),
        (density(settings.density, settings.test_samples, seed=_TEST_SEED),),
        size | options(settings, "trace", "kinetic", "jacobian"),
        likelihood,
        inputs=1,
        score_name="nats",
        higher_is_better=False,
    )


class _Grid:
    """The middles of equal cells over a square around points."""

    def __init__(self, middle: Tensor, half: float) -> None:
        steps = ((torch.arange(_GRID) + 0.5) / _GRID * 2.0 - 1.0) * half
        x, y = middle[0] + steps, middle[1] + steps
        self.points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        self.cell = (2.0 * half / _GRID) ** 2
        left, low = (middle - half).tolist()
        self.box = (left, left + 2.0 * half, low, low + 2.0 * half)

    @classmethod
    def around(cls, points: Tensor) -> _Grid:
        low, high = points.amin(0), points.amax(0)
        return cls((low + high) / 2, float((high - low).max()) / 2 + _MARGIN)

    @torch.no_grad()
    def heights(self, model: nn.Module) -> Tensor:
        """Return the density at every point, rows from below, `[n, n]`."""
        device = next(model.parameters()).device
        chunks = self.points.flatten(0, 1).to(device).split(_CHUNK)
        return torch.cat([model(chunk).exp() for chunk in chunks]).cpu().view(_GRID, _GRID)
