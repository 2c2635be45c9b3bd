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
    std: NDArray[np.float32],
    horizons: Sequence[int] = HORIZONS,
) -> pd.DataFrame:
    """Return one row a forecast and horizon; `mean` and `std` are `[W, H]` in mg/dL.

    Columns: subject, origin (time), horizon_min, target (NaN where missing), mean, lo90, hi90.
    """
    ahead = len(horizons)
    return pd.DataFrame(
        {
            "subject": np.repeat(np.asarray(subjects)[windows.subject], ahead),
            "origin": np.repeat(windows.origin, ahead),
            "horizon_min": np.tile(np.asarray(horizons), len(mean)),
            "target": windows.targets.ravel(),
            "mean": mean.ravel(),
            "lo90": (mean - HALF_WIDTH * std).ravel(),
            "hi90": (mean + HALF_WIDTH * std).ravel(),
        }
    )


def scores(forecasts: pd.DataFrame) -> dict[str, float]:
    """Return rmse and mae (mg/dL), ape (%) and coverage90 of each horizon, as in `rmse_30`.

    Pooled over all rows that have a target; NaN for a horizon without any. `ape` is the mean
    absolute error in percent of the target, `coverage90` the share of targets within lo90 and hi90.
    """
    found: dict[str, float] = {}
    for horizon, rows in forecasts.groupby("horizon_min", sort=True):
        known = rows.dropna(subset=["target"])
        error = known["mean"] - known["target"]
        within = known["target"].between(known["lo90"], known["hi90"])
        columns = {
            "rmse": float(np.sqrt((error.astype("float64") ** 2).mean())),
            "mae": float(error.abs().mean()),
            "ape": float(100 * (error.abs() / known["target"]).mean()),
            "coverage90": float(within.mean()),
        }
        found |= {f"{name}_{horizon}": value for name, value in columns.items()}
    return found


def errors(
    windows: Windows, mean: NDArray[np.float32], horizons: Sequence[int] = HORIZONS
) -> dict[str, float]:
    """Return `scores` of forecasts without an interval: rmse, mae and ape of each horizon."""
    names = [str(number) for number in range(int(windows.subject.max(initial=0)) + 1)]
    found = scores(table(windows, names, mean, np.zeros_like(mean), horizons))
    return {name: value for name, value in found.items() if not name.startswith("coverage")}


def by_person(forecasts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the `scores` of each subject."""
    people = forecasts.groupby("subject", sort=True)
    return {str(subject): scores(rows) for subject, rows in people}
