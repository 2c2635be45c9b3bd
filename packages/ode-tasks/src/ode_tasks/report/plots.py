"""Charts and curves as PNG: figures without a window and without pyplot's global state."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from ode_tasks.report import curves
from ode_tasks.report.curves import BANDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from ode_tasks.report.chart import Axis, Chart, Series
    from ode_tasks.report.rows import Result

__all__ = ["BANDS", "COLOURS", "curve", "draw", "finish", "finish_curves", "png"]

_SIZE, _DOTS_PER_INCH = (6.6, 4.0), 140
_MARKED = 15
_LEGEND_LINES = 16
_FEW_DECADES = 1e3

# Told apart by people who see colours differently (Okabe and Ito 2008), then some more.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#7a5195",
    "#8c510a",
    "#7f7f7f",
    "#66a61e",
    "#b2182b",
)
_MARKERS = "osD^v<>PhXpd"


def draw(chart: Chart) -> bytes:
    """Return a chart as the bytes of a PNG file."""
    figure = Figure(figsize=_SIZE)
    # A layout that is worked out would draw everything twice.
    axes = figure.add_axes((0.13, 0.13, 0.58, 0.77))
    for series in chart.series:
        _draw(axes, series)
    axes.set(xlabel=chart.x.label, ylabel=chart.y.label, title=chart.title)
    for axis, ticks, limits in (
        (chart.x, axes.xaxis, axes.get_xlim()),
        (chart.y, axes.yaxis, axes.get_ylim()),
    ):
        _scale(axes, axis, ticks, limits)
    finish(axes)
    return png(figure)


def _draw(axes: Axes, series: Series) -> None:
    number = series.style
    colour = COLOURS[number % len(COLOURS)]
    points = series.points
    x, y = [p.x for p in points], [p.y for p in points]
    # Once around the colours, markers go on by one, so that no pair comes twice too soon.
    marker = _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]
    style: dict[str, Any] = {"color": colour, "label": series.name, "ms": 5, "lw": 1.6}
    if series.stepped:
        axes.step(x, y, where="post", **style)
        return
    style["ls"] = "-" if series.joined else ""
    style["marker"] = "" if series.joined and len(points) > _MARKED else marker
    axes.plot(x, y, **style)
    if any(p.low is not None for p in points):
        low = [p.y if p.low is None else p.low for p in points]
        high = [p.y if p.high is None else p.high for p in points]
        if series.joined:
            axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        else:
            axes.vlines(x, low, high, color=colour, alpha=0.5, lw=1)


def _scale(axes: Axes, axis: Axis, ticks: Any, limits: tuple[float, float]) -> None:
    if axis.log:
        (axes.set_xscale if ticks is axes.xaxis else axes.set_yscale)("log")
        low, high = (axes.get_xlim if ticks is axes.xaxis else axes.get_ylim)()
        subs = (1.0, 2.0, 5.0) if high < _FEW_DECADES * low else (1.0,)
        ticks.set_major_locator(LogLocator(subs=subs))
        ticks.set_major_formatter(StrMethodFormatter("{x:g}"))
        ticks.set_minor_locator(NullLocator())
    elif axis.label == "epoch":
        axes.set_xlim(min(0.5, limits[0]), limits[1])
        ticks.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def curve(
    axes: Axes, runs: Sequence[Result], column: str, *, label: str, **style: Any
) -> list[float]:
    """Draw the mean over runs of a column of their histories, and their range as a band.

    Return the values that were drawn.
    """
    points = curves.curve(runs, column)
    if not points:
        return []
    epochs = [point.x for point in points]
    if len(epochs) > _MARKED:
        style["marker"] = ""
    axes.plot(epochs, [point.y for point in points], ms=5, lw=1.6, label=label, **style)
    low = [point.y if point.low is None else point.low for point in points]
    high = [point.y if point.high is None else point.high for point in points]
    if low != high:
        axes.fill_between(epochs, low, high, color=style.get("color"), alpha=0.18, lw=0)
    return [*low, *high]


def finish_curves(axes: Axes, values: Sequence[float]) -> None:
    """Give axes of curves their scale, their ticks and their legend."""
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set(xlabel="epoch")
    axes.set_xlim(0.5, axes.dataLim.x1 + 0.5 if axes.has_data() else 1.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    finish(axes)


def finish(axes: Axes) -> None:
    """Give axes their legend, beside them, and their grid."""
    handles, texts = axes.get_legend_handles_labels()
    unique = dict(zip(texts, handles, strict=True))  # several seeds are one entry
    if unique:
        axes.legend(
            unique.values(),
            unique.keys(),
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            frameon=False,
            fontsize=8 if len(unique) <= _LEGEND_LINES else 6,
            ncols=1 + (len(unique) - 1) // (2 * _LEGEND_LINES),
        )
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
