"""Glucose: forecast a person's readings 15 to 60 minutes ahead."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ode_core.errors import ArgumentError
from ode_tasks import glucose_training as training
from ode_tasks.data import glucose, patients
from ode_tasks.data.glucose import Cohort
from ode_tasks.data.windows import HORIZONS, folds, split
from ode_tasks.glucose_baselines import baselines
from ode_tasks.glucose_clinical import by_range, clarke
from ode_tasks.glucose_compare import against
from ode_tasks.glucose_horizons import HORIZON_PLOT, draw_horizons
from ode_tasks.glucose_plot import FORECAST, draw
from ode_tasks.glucose_scores import PREDICTIONS, by_person, path_scores, scores, table
from ode_tasks.gradients.probe import Probe
from ode_tasks.presets import load
from ode_tasks.settings import Settings, check, choose, solving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.windows import Parts
    from ode_tasks.glucose_training import Learned

SCORE = "rmse_30"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlucoseSettings(Settings):
    """The settings of the glucose task.

    `train_windows` is the most that are trained on, spread evenly over all; the test part is
    always scored whole. Training stops after `patience` epochs without a better validation loss.
    `patients` and `days` make the embedded cohort; `weight_decay` is AdamW's, `stretch` and `beta`
    are `glucose_training.stretched`'s and `loss`'s. With `linear` the networks correct a linear
    predictor, with `controls` they see meals and insulin where the data have them. With `folds`
    above 1 the people are split, too: each is forecast by a network that never saw that person.
    `trees` adds gradient-boosted trees to the baselines.
    """

    train_windows: int
    patience: int
    patients: int
    days: int
    weight_decay: float = 0.0
    stretch: float = 0.2
    beta: float = 0.5
    linear: bool = True
    controls: bool = True
    folds: int = 1
    trees: bool = True

    def __post_init__(self) -> None:
        """Raise ArgumentError for a count below 1 or a negative weight decay."""
        super().__post_init__()
        for name in ("train_windows", "patience", "patients", "days", "folds"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it is a whole number from 1")
        for name in ("weight_decay", "stretch", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it is a number from 0")


PRESETS = load("glucose.toml", GlucoseSettings)


class Glucose:
    """The task `glucose`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on readings, choose by the validation part, score the test part once.

        With `config.out` the forecasts and pictures of them are left there. Raises DataError for
        data that cannot be used.
        """
        settings = choose(PRESETS, config)
        check(config)
        cohort = _cohort(config, settings)
        subjects = [person.subject for person in cohort.series]
        parts = folds(cohort.series, settings.folds)
        learned = [
            training.learn(_of_fold(config, fold, len(parts)), settings, part, progress)
            for fold, part in enumerate(parts)
        ]
        forecasts = pd.concat(
            [
                table(part.test, subjects, found.test.mean, std=found.test.std)
                for part, found in zip(parts, learned, strict=True)
            ],
            ignore_index=True,
        )
        rivals = _baselines(parts, subjects, settings)
        if config.out is not None:
            config.out.mkdir(parents=True, exist_ok=True)
            forecasts.to_parquet(config.out / PREDICTIONS, index=False)
            draw(config.out / FORECAST, forecasts, config.model)
            named = {config.model: by_person(forecasts)}
            named |= {name: found["per_person"] for name, found in rivals.items()}
            draw_horizons(config.out / HORIZON_PLOT, named)
        pooled = _scored(forecasts)
        return {
            **solving(config, settings),
            "loss": float(np.mean([found.test.loss for found in learned])),
            "score": pooled[SCORE],
            "score_name": SCORE,
            "higher_is_better": False,
            **_costs(learned),
            **pooled,
            "against_ridge": against(pooled["per_person"], rivals["ridge"]["per_person"]),
            "baselines": rivals,
            "people": len(subjects),
            "unseen_people": settings.folds > 1,
            "intakes": training.kinds(parts[0].train) > 0,
            "train_windows": min(len(parts[0].train.origin), settings.train_windows),
            "validation_windows": len(parts[0].validation.origin),
            "test_windows": sum(len(part.test.origin) for part in parts),
            "data_notes": list(cohort.notes),
        }

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch of windows and its loss; raises DataError like `run`."""
        settings = choose(PRESETS, config)
        parts = split(_cohort(config, settings).series)
        used = training.tensors(training.spread(parts.train, settings.batch), parts.scale)
        batch = tuple(part.to(config.device) for part in used)
        size = training.model_size(settings, training.kinds(parts.train))
        return Probe(settings, size, lambda net: training.loss(net, batch), batch)


def _cohort(config: RunConfig, settings: GlucoseSettings) -> Cohort:
    if config.data is not None:
        cohort = glucose.load(config.data)
    else:
        cohort = patients.cohort(settings.patients, settings.days)
    if settings.controls:
        return cohort
    return Cohort(tuple(person._replace(taken=None) for person in cohort.series), cohort.notes)


def _of_fold(config: RunConfig, fold: int, count: int) -> RunConfig:
    """Return the config whose checkpoints are this fold's own."""
    if count == 1 or config.out is None:
        return config
    return dataclasses.replace(config, out=config.out / f"fold-{fold}")


def _scored(forecasts: pd.DataFrame) -> dict[str, Any]:
    return {
        **scores(forecasts),
        **path_scores(forecasts),
        "per_person": by_person(forecasts),
        "by_range": by_range(forecasts),
        "clarke": clarke(forecasts),
    }


def _baselines(
    parts: Sequence[Parts], subjects: Sequence[str], settings: GlucoseSettings
) -> dict[str, dict[str, Any]]:
    tables: dict[str, list[pd.DataFrame]] = {}
    for part in parts:
        for name, found in baselines(part, trees=settings.trees).items():
            made = table(part.test, subjects, found.mean, std=found.std)
            tables.setdefault(name, []).append(made)
    return {name: _scored(pd.concat(made)) for name, made in tables.items()}


def _costs(learned: Sequence[Learned]) -> dict[str, Any]:
    """Return what training cost: of several folds the last one's."""
    columns = dict(learned[-1].columns)
    calibration = np.mean([found.calibration for found in learned], axis=0)
    columns |= {
        f"calibration_{minutes}": float(factor)
        for minutes, factor in zip(HORIZONS, calibration, strict=True)
    }
    return columns
