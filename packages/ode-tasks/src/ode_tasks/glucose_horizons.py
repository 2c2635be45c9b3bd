"""The picture of errors over the horizon: one panel a person, one line a forecaster."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

HORIZON_PLOT = "horizons.png"

_COLUMNS = 5
_HORIZON = re.compile(r"rmse_(\d+)")
_COLOURS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")
_GREYS = {
    "last_value": ("#9e9e9e", ":"),
    "straight_line": ("#bdbdbd", "-."),
    "ridge": ("#424242", "--"),
    "boosted_trees": ("#757575", (0, (1, 1))),
}
_DOTS_PER_INCH = 110


def draw_horizons(path: Path, forecasters: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Write a PNG of the RMSE of each person at each horizon, from `by_person` of forecasters."""
    horizons_figure(forecasters).savefig(path, dpi=_DOTS_PER_INCH)


def horizons_figure(forecasters: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Return a figure with a panel a person; baselines are grey, broken lines.

    The straight line is left out: far ahead it is so wrong that the others could not be told apart.
    """
    shown = {name: scores for name, scores in forecasters.items() if name != "straight_line"}
    people = sorted({person for scores in shown.values() for person in scores})
    columns = min(_COLUMNS, max(len(people), 1))
    rows = max(math.ceil(len(people) / columns), 1)
    drawing = Figure(figsize=(0.6 + 2.4 * columns, 0.9 + 1.9 * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, person in zip(panels, people, strict=False):
        _panel(axes, person, shown)
    for axes in panels[len(people) :]:
        axes.set_axis_off()
    for axes in panels[max(len(people) - columns, 0) : len(people)]:
        axes.tick_params(labelbottom=True)  # the lowest of its column
    panels[0].set_ylim(bottom=0)  # of all: they share it
    drawing.supxlabel("minutes ahead", fontsize=10)
    drawing.supylabel("RMSE (mg/dL)", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return drawing


def _panel(
    axes: Axes, person: str, forecasters: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    models = [name for name in forecasters if name not in _GREYS]
    for name, scores in forecasters.items():
        found = {
            int(match.group(1)): value
            for key, value in scores.get(person, {}).items()
            if (match := _HORIZON.fullmatch(key))
        }
        minutes = sorted(found)
        colour, dashes = _GREYS.get(name, ("", "-"))
        if name in models:
            colour = _COLOURS[models.index(name) % len(_COLOURS)]
        axes.plot(
            minutes,
            [found[m] for m in minutes],
            color=colour,
            ls=dashes,
            lw=1.4,
            label=name.replace("_", " "),
        )
        axes.set_xticks(minutes)
    axes.set_title(person, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
