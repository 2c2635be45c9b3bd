"""Glucose: forecast a person's readings 15, 30 and 60 minutes ahead."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ode_core.errors import ArgumentError
from ode_tasks import measure
from ode_tasks.data import glucose, patients
from ode_tasks.data.windows import HORIZONS, Parts, Windows, split
from ode_tasks.glucose_baselines import baselines
from ode_tasks.glucose_plot import FORECAST, draw
from ode_tasks.glucose_scores import PREDICTIONS, by_person, scores, table
from ode_tasks.gradients.probe import Probe
from ode_tasks.presets import load
from ode_tasks.settings import Settings, build, check, choose, direct_twin, solving
from ode_tasks.train import fit, loader, make_fabric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.glucose import Cohort
    from ode_tasks.data.windows import Scale
    from ode_tasks.train import Batch

SCORE = "rmse_30"

# Enough windows to see the solver's error, few enough to solve them to 1e-10.
_ERROR_WINDOWS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlucoseSettings(Settings):
    """The settings of the glucose task.

    `train_windows` is the most that are trained on, spread evenly over all; the test part is
    always scored whole. Training stops after `patience` epochs without a better validation loss.
    `patients` and `days` make the embedded cohort; `weight_decay` is AdamW's.
    """

    train_windows: int
    patience: int
    patients: int
    days: int
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Raise ArgumentError for a count below 1 or a negative weight decay."""
        super().__post_init__()
        for name in ("train_windows", "patience", "patients", "days"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it is a whole number from 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ArgumentError(f"weight_decay is {self.weight_decay}; it is a number from 0")


PRESETS = load("glucose.toml", GlucoseSettings)


class Glucose:
    """The task `glucose`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on readings, choose by the validation part, score the test part once.

        With `config.out` the forecasts and a picture of them are left there. Raises DataError for
        data that cannot be used.
        """
        settings = choose(PRESETS, config)
        check(config)
        cohort = _cohort(config, settings)
        parts = split(cohort.series)
        run = _train(config, settings, parts, progress)
        test = _forecast(
            run.model, parts.test, parts.scale, fabric=run.fabric, batch=settings.batch
        )
        subjects = [person.subject for person in cohort.series]
        forecasts = table(parts.test, subjects, test.mean, std=test.std)
        if config.out is not None:
            config.out.mkdir(parents=True, exist_ok=True)
            forecasts.to_parquet(config.out / PREDICTIONS, index=False)
            draw(config.out / FORECAST, forecasts, config.model)
        pooled = scores(forecasts)
        return {
            **solving(config, settings),
            "loss": test.loss,
            "score": pooled[SCORE],
            "score_name": SCORE,
            "higher_is_better": False,
            **run.columns,
            **pooled,
            "per_person": by_person(forecasts),
            "baselines": _baselines(parts, subjects),
            "people": len(subjects),
            "train_windows": min(len(parts.train.origin), settings.train_windows),
            "validation_windows": len(parts.validation.origin),
            "test_windows": len(parts.test.origin),
            "data_notes": list(cohort.notes),
        }

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss; raises DataError like `run`."""
        settings = choose(PRESETS, config)
        parts = split(_cohort(config, settings).series)
        used = _tensors(_spread(parts.train, settings.batch), parts.scale)
        batch = tuple(part.to(config.device) for part in used)
        return Probe(settings, _size(settings), lambda net: _loss(net, batch), batch)


def _cohort(config: RunConfig, settings: GlucoseSettings) -> Cohort:
    if config.data is not None:
        return glucose.load(config.data)
    return patients.cohort(settings.patients, settings.days)


def _baselines(parts: Parts, subjects: Sequence[str]) -> dict[str, dict[str, Any]]:
    tables = {name: table(parts.test, subjects, mean) for name, mean in baselines(parts).items()}
    return {name: scores(t) | {"per_person": by_person(t)} for name, t in tables.items()}


class _Run(NamedTuple):
    """A trained model, and what its training and its solves cost."""

    model: nn.Module
    fabric: Fabric
    columns: dict[str, Any]


def _train(config: RunConfig, settings: GlucoseSettings, parts: Parts, progress: Progress) -> _Run:
    fabric = make_fabric(config.device, settings.precision)
    size = _size(settings)
    model = build(config, settings, **size)
    used = _tensors(_spread(parts.train, settings.train_windows), parts.scale)
    trained = fit(
        model,
        loader(used, settings.batch, seed=config.seed),
        _loss,
        optimiser=torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        ),
        schedule=settings.schedule(
            patience=settings.patience, watch="validation_loss", higher_is_better=False
        ),
        evaluate=_Validate(parts, fabric, settings.batch),
        fabric=fabric,
        progress=progress,
        config=config,
    )
    batch = fabric.to_device(tuple(part[: settings.batch] for part in used))
    twin = direct_twin(config, settings, model, **size)
    columns = {
        **trained.columns(),
        "solver_error": measure.solver_error(model, *(part[:_ERROR_WINDOWS] for part in batch[:3])),
        **measure.memory_columns(model, twin, lambda net: _loss(net, batch), batch),
        "history": trained.history,
    }
    return _Run(model, fabric, columns)


def _size(settings: GlucoseSettings) -> dict[str, Any]:
    return {"horizons": [minutes / 60 for minutes in HORIZONS], "width": settings.width}


def _spread(windows: Windows, count: int) -> Windows:
    """Return at most so many windows, evenly spread over all."""
    if len(windows.origin) <= count:
        return windows
    return windows.take(np.linspace(0, len(windows.origin) - 1, count).astype(np.int64))


def _tensors(windows: Windows, scale: Scale) -> Batch:
    """Return times (hours), normal values, mask and normal targets (NaN where missing)."""
    parts = (
        windows.times,
        np.where(windows.mask, scale.normal(windows.values, windows.subject), np.float32(0)),
        windows.mask,
        scale.normal(windows.targets, windows.subject),
    )
    return tuple(torch.from_numpy(part) for part in parts)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the Gaussian negative log likelihood of the known targets plus the model's penalty."""
    times, values, mask, targets = batch
    forecast = model(times, values, mask)
    loss: Tensor = _likelihood(forecast.mean, forecast.std, targets) + forecast.penalty
    return loss


def _likelihood(mean: Tensor, std: Tensor, targets: Tensor) -> Tensor:
    known = ~targets.isnan()
    each = F.gaussian_nll_loss(
        mean, torch.where(known, targets, 0), std.square(), full=True, reduction="none"
    )
    return (each * known).sum() / known.sum().clamp_min(1)


class _Forecasts(NamedTuple):
    """`mean` and `std` are `[W, H]` in mg/dL, `loss` the mean negative log likelihood."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    loss: float


@torch.no_grad()
def _forecast(
    model: nn.Module, windows: Windows, scale: Scale, *, fabric: Fabric, batch: int
) -> _Forecasts:
    model.eval()
    tensors = _tensors(windows, scale)
    means, stds = [], []
    for part in loader(tensors, 4 * batch):
        forecast = model(*fabric.to_device(part[:3]))
        means.append(forecast.mean.float().cpu())
        stds.append(forecast.std.float().cpu())
    mean, std = torch.cat(means), torch.cat(stds)
    loss = float(_likelihood(mean, std, tensors[3]))
    mg_dl = scale.mg_dl(mean.numpy(), windows.subject)
    return _Forecasts(mg_dl, std.numpy() * np.float32(scale.std), loss)


@dataclasses.dataclass(frozen=True)
class _Validate:
    """The loss and the errors over the validation part, by which training is stopped."""

    parts: Parts
    fabric: Fabric
    batch: int

    def __call__(self, model: nn.Module) -> dict[str, float]:
        windows = self.parts.validation
        found = _forecast(model, windows, self.parts.scale, fabric=self.fabric, batch=self.batch)
        people = [str(number) for number in range(len(self.parts.scale.means))]
        return {
            "validation_score": scores(table(windows, people, found.mean))[SCORE],
            "validation_loss": found.loss,
        }
