"""The plots: times of all works side by side, and times as one thing grows, with slopes."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ode_tasks.benchmark.cell import OK
from ode_tasks.peers.contest import SUITE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ode_tasks.peers.compare import Row

# Told apart by people who see colours differently (Okabe and Ito 2008).
_COLOURS = {
    SUITE: "#0072b2",
    "torchdiffeq": "#d55e00",
    "torchode": "#009e73",
    "diffrax": "#cc79a7",
    "scipy": "#e69f00",
}
_MARKERS = "osD^vPX*"
_DOTS_PER_INCH = 140
_SPREAD = 0.8
_LABEL = 24


def draw_works(path: Path, rows: Sequence[Row], facts: str) -> bool:
    """Write a PNG of times over the floor by work, one panel a direction; False if empty."""
    done = [row for row in rows if row["status"] == OK and not row["grows"]]
    panels = list(dict.fromkeys((row["device"], row["direction"]) for row in done))
    if not panels:
        return False
    names = [list(dict.fromkeys(r["summary"] for r in done if _panel(r) == p)) for p in panels]
    lines = [
        max(len(works), len(_variants(done, panel)) / 4)
        for works, panel in zip(names, panels, strict=True)
    ]
    figure = Figure(figsize=(10.0, 1.4 + sum(0.75 * n + 0.6 for n in lines)), layout="constrained")
    grid: Any = figure.subplots(
        len(panels), 1, squeeze=False, height_ratios=[n + 0.5 for n in lines], sharex=True
    )
    for axes, panel, works in zip(grid[:, 0], panels, names, strict=True):
        _draw_panel(axes, [row for row in done if _panel(row) == panel], works)
        axes.set_title(f"{panel[1]}, {panel[0]}", fontsize=11)
    grid[-1, 0].set_xlabel("time over that of its calls of f alone; 1 is the floor")
    _save(figure, path, facts)
    return True


def _draw_panel(axes: Any, rows: Sequence[Row], works: Sequence[str]) -> None:
    """Draw one line of points a work, those of different variants one below the other."""
    variants = _variants(rows, _panel(rows[0]))
    for place, (peer, variant) in enumerate(variants):
        points = [row for row in rows if (row["peer"], row["variant"]) == (peer, variant)]
        shift = _SPREAD * ((place + 0.5) / len(variants) - 0.5)
        rank = [v for p, v in variants if p == peer].index(variant)
        axes.plot(
            [row["over_floor"] for row in points],
            [works.index(row["summary"]) + shift for row in points],
            _MARKERS[rank],
            color=_COLOURS.get(peer, "#7f7f7f"),
            ms=6,
            mec="white",
            mew=0.5,
            label=f"{peer} {variant}",
        )
    for place in range(1, len(works)):
        axes.axhline(place - 0.5, color="#e6e6e6", lw=0.8, zorder=0)
    axes.set(xscale="log", ylim=(len(works) - 0.5, -0.5))
    axes.set_yticks(range(len(works)), [textwrap.fill(name, _LABEL) for name in works])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1.0, color="#808080", lw=1.0, zorder=1)
    axes.grid(axis="x", color="#e6e6e6")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)


def _variants(rows: Sequence[Row], panel: tuple[str, str]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["peer"], r["variant"]) for r in rows if _panel(r) == panel))


def draw_growth(path: Path, rows: Sequence[Row], facts: str) -> bool:
    """Write a PNG of times against what grows, one panel each; False if there are none."""
    fits = slopes(rows)
    grows = list(dict.fromkeys(fit["grows"] for fit in fits))
    if not grows:
        return False
    columns = min(2, len(grows))
    lines = math.ceil(len(grows) / columns)
    figure = Figure(figsize=(5.0 * columns, 3.8 * lines + 0.4), layout="constrained")
    grid: Any = figure.subplots(lines, columns, squeeze=False)
    for axes, name in zip(grid.flat, grows, strict=False):
        for fit in (fit for fit in fits if fit["grows"] == name):
            axes.plot(
                fit["sizes"],
                [1e3 * seconds for seconds in fit["seconds"]],
                "o-" if fit["peer"] == SUITE else "s--",
                color=_COLOURS.get(fit["peer"], "#7f7f7f"),
                ms=4,
                lw=1.4,
                label=f"{fit['peer']}, slope {fit['slope']:.2f}",
            )
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="ms")
        axes.legend(frameon=False, fontsize=8)
        axes.grid(color="#e6e6e6")
    for axes in grid.flat[len(grows) :]:
        axes.set_visible(False)
    _save(figure, path, facts)
    return True


def slopes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for everything that grows, and everyone, times and their slope on log axes.

    `slope` is that of the least-squares line of log time against log size, `steepest` the largest
    between neighbours.
    """
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["status"] == OK and row["grows"]:
            lines.setdefault((row["grows"], row["peer"], row["variant"]), []).append(row)
    fits = []
    for (grows, peer, variant), points in lines.items():
        sizes = [point["size"] for point in points]
        seconds = [point["seconds"] for point in points]
        if len(points) < 2:
            continue
        x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
        between = [(b - a) / (d - c) for a, b, c, d in zip(y, y[1:], x, x[1:], strict=False)]
        fits.append(
            {
                "grows": grows,
                "peer": peer,
                "variant": variant,
                "sizes": sizes,
                "seconds": seconds,
                "least": sizes[0],
                "most": sizes[-1],
                "first": seconds[0],
                "last": seconds[-1],
                "slope": _slope(x, y),
                "steepest": max(between),
            }
        )
    return fits


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return across / sum((a - mx) ** 2 for a in x)


def _panel(row: Row) -> tuple[str, str]:
    return row["device"], row["direction"]


def _save(figure: Figure, path: Path, facts: str) -> None:
    figure.supxlabel("\n".join(textwrap.wrap(facts, 130)), fontsize=7, color="#606060")
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})
