"""A chart as data: what the page draws in a reader's browser, and Matplotlib for a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_SERIES = 10
OVER_ALL = "all tasks"


class Point(NamedTuple):
    """A point, the range of its y over seeds where they differ, the cell it is of, and a note."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    cell: str = ""
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, and whether its scale is logarithmic."""

    label: str
    log: bool = False


@dataclass(frozen=True)
class Series:
    """Points under one name, joined in their order if `joined`, by steps if `stepped`.

    `solver` is the solver that they are all of, if they are; `style` is the number of its colour,
    the same in all charts of a report.
    """

    name: str
    points: tuple[Point, ...]
    solver: str = ""
    joined: bool = True
    stepped: bool = False
    style: int = 0


@dataclass(frozen=True)
class Chart:
    """A chart of one task, or of `OVER_ALL`; `name` is that of its file without the ending."""

    name: str
    task: str
    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]

    def plain(self) -> dict[str, Any]:
        """Return the chart as JSON takes it, numbers to six digits."""
        return {
            "name": self.name,
            "task": self.task,
            "title": self.title,
            "caption": self.caption,
            "x": vars(self.x),
            "y": vars(self.y),
            "series": [
                vars(series) | {"points": [_plain(point) for point in series.points]}
                for series in self.series
            ],
        }


def _plain(point: Point) -> list[float | str | None]:
    """Return a point without what is missing at its end."""
    values: list[float | str | None] = [
        float(f"{value:.6g}") if isinstance(value, float | int) else value for value in point
    ]
    while values[-1] in (None, ""):
        values.pop()
    return values


def limited(series: Sequence[Series], what: str) -> tuple[tuple[Series, ...], str]:
    """Return the first of the series, as many as can be told apart, and a sentence if some are not.

    `what` says which come first.
    """
    shown = tuple(series[:MOST_SERIES])
    if len(shown) == len(series):
        return shown, ""
    return shown, f" Shown are {len(shown)} of {len(series)}, {what}."


def styled(charts: Iterable[Chart]) -> list[Chart]:
    """Return the charts with one style for each name, whichever chart it is in."""
    charts = list(charts)
    names = dict.fromkeys(series.name for chart in charts for series in chart.series)
    # Single words are solvers, which most charts show: their colours come before any comes again.
    order = sorted(names, key=lambda name: (len(name.split()), name))
    number = {name: place for place, name in enumerate(order)}
    return [
        replace(c, series=tuple(replace(s, style=number[s.name]) for s in c.series)) for c in charts
    ]
