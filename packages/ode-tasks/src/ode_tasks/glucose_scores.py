"""The table of forecasts and what is computed from it: errors and the interval's coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ode_tasks.data.windows import HORIZONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ode_tasks.data.windows import Windows

PREDICTIONS = "predictions.parquet"

HALF_WIDTH = 1.6448536269514722
"""Standard deviations from the middle to the ends of a normal distribution's central 90 %."""


def table(
    windows: Windows,
    subjects: Sequence[str],
    mean: NDArray[np.float32],
    *,
    std: NDArray[np.float32] | None = None,
    horizons: Sequence[int] = HORIZONS,
) -> pd.DataFrame:
    """Return one row a forecast and horizon; `mean` and `std` are `[W, H]` in mg/dL.

    Columns: subject, origin (time), horizon_min, target (NaN where missing), mean, and with a `std`
    the ends lo90 and hi90 of the central 90 %.
    """
    ahead = len(horizons)
    columns = {
        "subject": np.repeat(np.asarray(subjects)[windows.subject], ahead),
        "origin": np.repeat(windows.origin, ahead),
        "horizon_min": np.tile(np.asarray(horizons), len(mean)),
        "target": windows.targets.ravel(),
        "mean": mean.ravel(),
    }
    if std is not None:
        columns["lo90"] = (mean - HALF_WIDTH * std).ravel()
        columns["hi90"] = (mean + HALF_WIDTH * std).ravel()
    return pd.DataFrame(columns)


def scores(forecasts: pd.DataFrame) -> dict[str, float]:
    """Return rmse and mae (mg/dL), ape (%) and coverage90 of each horizon, as in `rmse_30`.

    Pooled over all rows that have a target; NaN for a horizon without any. `ape` is the mean
    absolute error in percent of the target; `coverage90`, where there are intervals, the share of
    targets within lo90 and hi90.
    """
    return _row(_means(forecasts, ["horizon_min"]))


def by_person(forecasts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the `scores` of each subject."""
    means = _means(forecasts, ["subject", "horizon_min"])
    people = means.groupby(level="subject", sort=True)
    return {str(subject): _row(rows.droplevel("subject")) for subject, rows in people}


def _means(forecasts: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    """Return the scores of each group, whose last level is the horizon, as columns."""
    target = forecasts["target"].astype("float64")
    error = (forecasts["mean"] - target).astype("float64")
    columns = {"rmse": error**2, "mae": error.abs(), "ape": 100 * error.abs() / target}
    if "lo90" in forecasts:
        within = target.between(forecasts["lo90"], forecasts["hi90"]).astype("float64")
        columns["coverage90"] = within.where(target.notna())
    means = pd.DataFrame(columns).groupby([forecasts[name] for name in groups], sort=True).mean()
    return means.assign(rmse=np.sqrt(means["rmse"]))


def _row(means: pd.DataFrame) -> dict[str, float]:
    return {
        f"{name}_{horizon}": float(value)
        for horizon, columns in means.iterrows()
        for name, value in columns.items()
    }
