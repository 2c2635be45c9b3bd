"""What a forecast has to beat: last value, straight line, ridge regression, boosted trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from ode_tasks.data.windows import HISTORY, HORIZONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ode_tasks.data.windows import Parts, Scale, Windows

_SLOT = 300.0
_SLOTS = round(HISTORY / _SLOT) + 1
_LINE_HOURS = 0.25
# A sensor's clock is off by a second or two, and its fourth reading should still count.
_SLACK_HOURS = 30 / 3600
_ALPHA = 1.0


class Baseline(NamedTuple):
    """Forecasts of the test windows in mg/dL: `mean` `[W, H]`, and one `std` a horizon, `[W, H]`.

    The spread is the root mean square error over the validation part of the same baseline, fitted
    without it.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


def baselines(
    parts: Parts, horizons: Sequence[int] = HORIZONS, *, trees: bool = False
) -> dict[str, Baseline]:
    """Return the forecasts of each baseline for the test windows.

    Nothing in them is chosen, so that the means are fitted to training and validation together.
    """
    ways: dict[str, Callable[[Sequence[Windows], Windows], NDArray[np.float32]]] = {
        "last_value": lambda _, asked: np.repeat(asked.values[:, -1:], len(horizons), axis=1),
        "straight_line": lambda _, asked: straight_line(asked, horizons),
        "ridge": lambda fitted, asked: ridge(fitted, asked, parts.scale),
    }
    if trees:
        ways["boosted_trees"] = lambda fitted, asked: boosted_trees(fitted, asked, parts.scale)
    found = {}
    for name, way in ways.items():
        std = _error(way([parts.train], parts.validation), parts.validation.targets)
        mean = way([parts.train, parts.validation], parts.test)
        found[name] = Baseline(mean, np.broadcast_to(std, mean.shape))
    return found


def _error(forecasts: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the root mean square error of each horizon, `[H]`, a little above 0 at least."""
    known = ~np.isnan(targets)
    square = np.where(known, forecasts - targets, 0).astype(np.float64) ** 2
    mean = square.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    std: NDArray[np.float32] = np.sqrt(np.maximum(mean, 1e-6)).astype(np.float32)
    return std


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
    return _regressed(lambda: Ridge(alpha=alpha), slots, fitted, windows, scale, relative=False)


def boosted_trees(fitted: Sequence[Windows], windows: Windows, scale: Scale) -> NDArray[np.float32]:
    """Return the forecasts of gradient-boosted trees, one ensemble a horizon, like `ridge`.

    Trees cannot extrapolate, so that they see the readings of the slots relative to the last one,
    and that one itself, and forecast by how much it changes.
    """
    return _regressed(
        lambda: HistGradientBoostingRegressor(
            learning_rate=0.05, max_iter=100, early_stopping=False, random_state=0
        ),
        _relative_slots,
        fitted,
        windows,
        scale,
        relative=True,
    )


def _regressed(
    make: Callable[[], Any],
    inputs: Callable[[Windows, Scale], NDArray[np.float64]],
    fitted: Sequence[Windows],
    windows: Windows,
    scale: Scale,
    *,
    relative: bool,
) -> NDArray[np.float32]:
    """Return the forecasts of one regression a horizon; `relative` ones are of the change."""
    given = np.concatenate([inputs(part, scale) for part in fitted])
    targets = np.concatenate([_targets(part, scale, relative=relative) for part in fitted])
    asked = inputs(windows, scale)
    forecasts = np.full((len(asked), targets.shape[1]), np.nan)
    for column, target in enumerate(targets.T):
        known = ~np.isnan(target)
        if known.any():
            forecasts[:, column] = make().fit(given[known], target[known]).predict(asked)
    if relative:
        forecasts += _last(windows, scale)
    return scale.mg_dl(forecasts.astype(np.float32), windows.subject)


def _targets(windows: Windows, scale: Scale, *, relative: bool) -> NDArray[np.float32]:
    targets = scale.normal(windows.targets, windows.subject)
    return targets - _last(windows, scale) if relative else targets


def _last(windows: Windows, scale: Scale) -> NDArray[np.float32]:
    return scale.normal(windows.values[:, -1:], windows.subject)


def _relative_slots(windows: Windows, scale: Scale) -> NDArray[np.float64]:
    filled = slots(windows, scale)
    return np.hstack((filled[:, :-1] - filled[:, -1:], filled[:, -1:]))


def slots(windows: Windows, scale: Scale) -> NDArray[np.float64]:
    """Return the normalised readings at 240, 235, ... 0 minutes before the origin, `[W, 49]`.

    A slot before the first reading takes that reading.
    """
    values = scale.normal(windows.values, windows.subject)
    grid = _SLOT / 3600 * np.arange(1 - _SLOTS, 1)
    rows = zip(windows.times, values, windows.mask, strict=True)
    filled = [np.interp(grid, time[used], value[used]) for time, value, used in rows]
    return np.array(filled, dtype=np.float64).reshape(-1, _SLOTS)
