"""What a forecast has to beat: the last value, a straight line, and ridge regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import Ridge

from ode_tasks.data.windows import HISTORY, HORIZONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ode_tasks.data.windows import Parts, Scale, Windows

_SLOT = 300.0
_SLOTS = round(HISTORY / _SLOT) + 1
_LINE_HOURS = 0.25
# A sensor's clock is off by a second or two, and its fourth reading should still count.
_SLACK_HOURS = 30 / 3600
_ALPHA = 1.0


def baselines(parts: Parts, horizons: Sequence[int] = HORIZONS) -> dict[str, NDArray[np.float32]]:
    """Return the forecasts of each baseline for the test windows, `[W, H]` in mg/dL.

    Nothing in them is chosen, so ridge regression is fitted to training and validation together.
    """
    test = parts.test
    return {
        "last_value": np.repeat(test.values[:, -1:], len(horizons), axis=1),
        "straight_line": straight_line(test, horizons),
        "ridge": ridge([parts.train, parts.validation], test, parts.scale),
    }


def straight_line(windows: Windows, horizons: Sequence[int] = HORIZONS) -> NDArray[np.float32]:
    """Return what the least-squares line through the readings of the last 15 minutes says.

    It is the last value where there is no other reading in them. `[W, H]` in mg/dL.
    """
    used = windows.mask & (windows.times >= -_LINE_HOURS - _SLACK_HOURS)
    weights = used / used.sum(axis=1, keepdims=True)
    time = (weights * windows.times).sum(axis=1, keepdims=True)
    level = (weights * windows.values).sum(axis=1, keepdims=True)
    spread = (weights * (windows.times - time) ** 2).sum(axis=1, keepdims=True)
    together = (weights * (windows.times - time) * windows.values).sum(axis=1, keepdims=True)
    slope = np.divide(together, spread, out=np.zeros_like(spread), where=spread > 0)
    ahead = np.asarray(horizons, dtype=np.float32) / 60
    line: NDArray[np.float32] = (level + slope * (ahead - time)).astype(np.float32)
    return line


def ridge(
    fitted: Sequence[Windows], windows: Windows, scale: Scale, *, alpha: float = _ALPHA
) -> NDArray[np.float32]:
    """Return the forecasts of one ridge regression a horizon, `[W, H]` in mg/dL.

    Its inputs are the normalised readings at the 49 slots of 5 minutes in a window, interpolated
    between the readings there. Windows without a target are left out of the fit.
    """
    inputs = np.concatenate([slots(part, scale) for part in fitted])
    targets = np.concatenate([scale.normal(part.targets, part.subject) for part in fitted])
    asked = slots(windows, scale)
    forecasts = np.full((len(asked), targets.shape[1]), np.nan)
    for column, target in enumerate(targets.T):
        known = ~np.isnan(target)
        if known.any():
            model = Ridge(alpha=alpha).fit(inputs[known], target[known])
            forecasts[:, column] = model.predict(asked)
    return scale.mg_dl(forecasts.astype(np.float32), windows.subject)


def slots(windows: Windows, scale: Scale) -> NDArray[np.float64]:
    """Return the normalised readings at 240, 235, ... 0 minutes before the origin, `[W, 49]`.

    A slot before the first reading takes that reading.
    """
    values = scale.normal(windows.values, windows.subject)
    grid = _SLOT / 3600 * np.arange(1 - _SLOTS, 1)
    rows = zip(windows.times, values, windows.mask, strict=True)
    filled = [np.interp(grid, time[used], value[used]) for time, value, used in rows]
    return np.array(filled, dtype=np.float64).reshape(-1, _SLOTS)
