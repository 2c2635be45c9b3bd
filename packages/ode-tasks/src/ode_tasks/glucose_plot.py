"""The picture of glucose forecasts: one test stretch, each model's mean and 90 % interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

from ode_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

FORECAST = "forecast.png"
COLUMNS = ("subject", "origin", "horizon_min", "target", "mean", "lo90", "hi90")

_STRETCH = pd.Timedelta(hours=24)
_GAP = pd.Timedelta(minutes=15)
_TRUE, _MEAN, _BAND = "#4d4d4d", "#d95f02", "#fdc086"
_DOTS_PER_INCH = 110


def read(path: Path) -> pd.DataFrame:
    """Return a run's forecasts; raises DataError where the file is not a table of them."""
    try:
        forecasts = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None
    missing = [name for name in COLUMNS if name not in forecasts.columns]
    if missing or forecasts.empty:
        lack = f"no column {', '.join(missing)}" if missing else "no rows"
        raise DataError(f"{path} has {lack}; expected are the forecasts that a glucose run left")
    return forecasts


def draw(path: Path, forecasts: pd.DataFrame, name: str, horizon: int = 30) -> None:
    """Write a PNG of one model's forecasts at this horizon (minutes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure({name: forecasts}, horizon).savefig(path, dpi=_DOTS_PER_INCH)


def figure(models: Mapping[str, pd.DataFrame], horizon: int = 30) -> Figure:
    """Return a figure with a panel for each model, all of the same stretch of the same person.

    Shown are 24 hours at most: those with the most forecasts in the first table, and among equals
    the widest range of glucose. A forecast stands at the time that it is for. Raises DataError
    where no forecast has this horizon.
    """
    chosen = {
        name: table[table["horizon_min"] == horizon].sort_values(["subject", "origin"])
        for name, table in models.items()
    }
    lacking = [name for name, table in chosen.items() if table.empty]
    if lacking or not chosen:
        raise DataError(f"no forecast is {horizon} minutes ahead: {', '.join(lacking) or 'none'}")
    subject, start = _stretch(next(iter(chosen.values())))
    drawing = Figure(figsize=(1.5 + 5.5 * len(chosen), 4.2), layout="constrained")
    panels = drawing.subplots(1, len(chosen), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, table) in zip(panels, chosen.items(), strict=True):
        there = table["origin"].between(start, start + _STRETCH, inclusive="left")
        _panel(axes, table[(table["subject"] == subject) & there], horizon)
        axes.set_title(name)
    panels[0].set_ylabel("glucose (mg/dL)")
    panels[0].legend(loc="upper left", frameon=False, fontsize=8)
    drawing.suptitle(f"{subject}: {horizon} minutes ahead", fontsize=11)
    return drawing


def _stretch(table: pd.DataFrame) -> tuple[str, pd.Timestamp]:
    """Return the person and the start of the stretch to show."""
    best: tuple[int, float] = (0, 0.0)
    subject, start = str(table["subject"].iloc[0]), table["origin"].iloc[0]
    for person, rows in table.groupby("subject", sort=True):
        origins = rows["origin"].to_numpy()
        ends = np.searchsorted(origins, origins + _STRETCH.to_numpy())
        most = int((ends - np.arange(len(origins))).max())
        first = int(np.argmax(ends - np.arange(len(origins)) == most))
        levels = rows["target"].iloc[first : first + most]
        rank = (most, float(levels.max() - levels.min()))
        if rank > best:
            best, subject, start = rank, str(person), rows["origin"].iloc[first]
    return subject, start


def _panel(axes: Axes, rows: pd.DataFrame, horizon: int) -> None:
    # A line must not cross a gap: an empty row stands in each.
    later = rows[rows["origin"].diff() > _GAP].assign(target=np.nan, mean=np.nan)
    later = later.assign(lo90=np.nan, hi90=np.nan, origin=later["origin"] - _GAP)
    rows = pd.concat([rows, later]).sort_values("origin")
    times = (rows["origin"] + pd.Timedelta(minutes=horizon)).to_numpy()
    axes.fill_between(times, rows["lo90"], rows["hi90"], color=_BAND, lw=0, label="90 % interval")
    axes.plot(times, rows["mean"], color=_MEAN, lw=1.6, label="forecast")
    axes.plot(times, rows["target"], ".", color=_TRUE, ms=3, label="reading")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
