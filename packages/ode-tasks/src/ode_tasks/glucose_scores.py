"""The table of forecasts and what is computed from it: errors and the interval's coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtr

from ode_tasks.data.windows import HORIZONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ode_tasks.data.windows import Windows

PREDICTIONS = "predictions.parquet"

LEVEL = 0.9
"""Of the intervals."""

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
    """Return the scores of each horizon, as in `rmse_30`, pooled over all rows that have a target.

    `rmse`, `mae` and `medae` (the median of the absolute error) in mg/dL, `ape` the mean absolute
    error in percent of the target, `n` the number of targets. Where there are intervals:
    `coverage90` the share of targets within lo90 and hi90, `width90` the mean of hi90 - lo90
    (mg/dL) and `crps` the mean continuous ranked probability score (mg/dL) of the normal
    distribution with this mean and interval. NaN for a horizon without any target.

    Source of the closed form of the score: Gneiting et al. 2005, Monthly Weather Review 133.
    """
    return _row(_means(forecasts, ["horizon_min"]))


def by_person(forecasts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the `scores` of each subject."""
    means = _means(forecasts, ["subject", "horizon_min"])
    people = means.groupby(level="subject", sort=True)
    return {str(subject): _row(rows.droplevel("subject")) for subject, rows in people}


def path_scores(forecasts: pd.DataFrame) -> dict[str, float]:
    """Return scores of whole paths, all horizons of one origin together, in mg/dL.

    `path_rmse` and `path_mae` are roots and means over all readings. `path_root_median_mse` and
    `path_median_mae` are medians over the paths of each path's own error, as GlucoBench prints
    them: about half as large, because most paths are easy, and not to be compared with the others.
    """
    error = (forecasts["mean"] - forecasts["target"]).astype("float64")
    of_path = pd.DataFrame({"mse": error**2, "mae": error.abs()}).groupby(
        [forecasts["subject"], forecasts["origin"]], sort=False
    )
    paths = of_path.mean()
    return {
        "path_rmse": float(np.sqrt((error**2).mean())),
        "path_mae": float(error.abs().mean()),
        "path_root_median_mse": float(np.sqrt(paths["mse"].median())),
        "path_median_mae": float(paths["mae"].median()),
    }


def _means(forecasts: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    """Return the scores of each group, whose last level is the horizon, as columns."""
    target = forecasts["target"].astype("float64")
    error = (forecasts["mean"] - target).astype("float64")
    columns = {"rmse": error**2, "mae": error.abs(), "ape": 100 * error.abs() / target}
    if "lo90" in forecasts:
        low, high = forecasts["lo90"].astype("float64"), forecasts["hi90"].astype("float64")
        known = target.notna()
        columns["coverage90"] = target.between(low, high).astype("float64").where(known)
        columns["width90"] = (high - low).where(known)
        columns["crps"] = _crps(error, (high - low) / (2 * HALF_WIDTH))
    keys = [forecasts[name] for name in groups]
    means = pd.DataFrame(columns).groupby(keys, sort=True).mean()
    grouped = error.abs().groupby(keys, sort=True)
    return means.assign(
        rmse=np.sqrt(means["rmse"]), medae=grouped.median(), n=grouped.count().astype("float64")
    )


def _crps(error: pd.Series[float], std: pd.Series[float]) -> pd.Series[float]:
    """Return the score of a normal distribution whose mean is this far from the reading."""
    off = error / std
    density = np.exp(-0.5 * off**2) / np.sqrt(2 * np.pi)
    return std * (off * (2 * ndtr(off) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def _row(means: pd.DataFrame) -> dict[str, float]:
    return {
        f"{name}_{horizon}": float(value)
        for horizon, columns in means.iterrows()
        for name, value in columns.items()
    }
