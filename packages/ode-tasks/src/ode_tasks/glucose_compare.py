"""Whether one forecaster's errors are smaller than another's: a paired bootstrap by person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

DRAWS = 10_000

PerPerson = Mapping[str, Mapping[str, float]]
"""`scores` of each person: of every horizon `rmse_30` and the number of readings `n_30`."""


def against(model: PerPerson, rival: PerPerson) -> dict[str, dict[str, float]]:
    """Return `compared` of two forecasters' scores."""
    return compared([model], rival)


def compared(runs: list[PerPerson], rival: PerPerson) -> dict[str, dict[str, float]]:
    """Return by how much the pooled RMSE of each horizon, as in "rmse_30", is above the rival's.

    `runs` are one forecaster's with several seeds, whose squared errors are averaged; people are
    drawn with replacement, both forecasters' errors together, 10,000 times, always the same.
    `difference` is in mg/dL, below 0 where the forecaster is better; `low` and `high` are the ends
    of the percentile interval of 95 %. Readings of one person are not independent, people are.

    Source: Efron and Tibshirani 1993, chapter 13, the percentile interval.
    """
    people = sorted(set(rival).intersection(*runs))
    names = [name for name in rival[people[0]] if name.startswith("rmse_")] if people else []
    return {name: _difference(runs, rival, people, name) for name in names}


def _difference(
    runs: list[PerPerson], rival: PerPerson, people: list[str], name: str
) -> dict[str, float]:
    count = _column(rival, people, name.replace("rmse", "n"))
    ours = np.mean([_column(run, people, name) ** 2 for run in runs], axis=0)
    sums = np.column_stack((count, count * ours, count * _column(rival, people, name) ** 2))
    sums = sums[count > 0]
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    low, high = np.quantile(_gap(sums[drawn].sum(axis=1)), (0.025, 0.975))
    difference = float(_gap(sums.sum(axis=0, keepdims=True))[0])
    return {"difference": difference, "low": float(low), "high": float(high)}


def _column(scores: PerPerson, people: list[str], name: str) -> Any:
    return np.array([scores[person][name] for person in people])


def _gap(sums: Any) -> Any:
    """Return the difference of two roots of mean squares from `[D, 3]`: count and two sums."""
    return np.sqrt(sums[:, 1] / sums[:, 0]) - np.sqrt(sums[:, 2] / sums[:, 0])
