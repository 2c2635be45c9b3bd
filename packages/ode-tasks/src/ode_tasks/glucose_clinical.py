"""What an error means to a person: by range of glucose, and the Clarke error grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ode_tasks.glucose_scores import scores

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

RANGES = {"below 70": (-np.inf, 70.0), "70 to 180": (70.0, 180.0), "above 180": (180.0, np.inf)}
"""Ranges of the true reading in mg/dL, the lower end within: low, in target, high."""

ZONES = "ABCDE"


def by_range(forecasts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the `scores` of the rows whose target lies in each range, those with any."""
    target = forecasts["target"]
    parts = {
        name: forecasts[(target >= low) & (target < high)] for name, (low, high) in RANGES.items()
    }
    return {name: scores(rows) for name, rows in parts.items() if len(rows)}


def clarke(forecasts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return for each horizon, as in "30", the share of the forecasts in each zone of the grid."""
    known = forecasts[forecasts["target"].notna()]
    zone = zones(known["target"], known["mean"])
    horizon = known["horizon_min"].to_numpy()
    return {
        str(minutes): {z: float((zone[horizon == minutes] == z).mean()) for z in ZONES}
        for minutes in np.unique(horizon)
    }


def zones(reference: ArrayLike, forecast: ArrayLike) -> NDArray[np.str_]:
    """Return the zone, A to E, of each pair of a true and a forecast reading, mg/dL.

    A: within 20 %, or both below 70. B: further off, but treated alike. C: would be treated without
    need. D: a low or a high that would be missed. E: a low taken for a high or the reverse.

    Source: Clarke et al. 1987, Diabetes Care 10(5), 622-628.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (reference, forecast))
    close = (np.abs(y - x) <= 0.2 * x) | ((x <= 70) & (y <= 70))
    opposite = ((x >= 180) & (y <= 70)) | ((x <= 70) & (y >= 180))
    needless = ((x >= 70) & (x <= 290) & (y >= x + 110)) | (
        (x >= 130) & (x <= 180) & (y <= 1.4 * x - 182)
    )
    missed_high = (x >= 240) & (y >= 70) & (y <= 180)
    missed_low = (x <= 70) & (y >= 70) & (y <= 180)
    missed = missed_high | missed_low
    return np.select([close, opposite, needless, missed], ["A", "E", "C", "D"], "B")
