"""A glucose study's tables of errors and intervals, and the errors over the horizon by person."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ode_tasks.glucose_horizons import horizons_figure
from ode_tasks.glucose_summary import summaries
from ode_tasks.report.groups import sets
from ode_tasks.report.plots import png
from ode_tasks.report.section import Plot, Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.groups import Set
    from ode_tasks.report.rows import Result

_DRAWN = ("last_value", "ridge")


def sections(results: Sequence[Result]) -> list[Section]:
    """Return the tables and the picture of each set of runs on the same readings."""
    scored = [r for r in results if r.ok and isinstance(r.get("clarke"), dict)]
    return [_of(of_set) for of_set in sets(scored)]


def _of(of_set: Set) -> Section:
    data = str(of_set.groups[0].get("data") or "")
    forecasters = {
        group.cell or str(group.get("model")): [run.row for run in group.finished]
        for group in of_set.groups
    }
    title = f"{of_set.name}{f' of {data}' if data else ''}"
    tables = tuple(
        Table(f"{title}: {made.title}", made.columns, made.rows, made.notes)
        for made in summaries(forecasters)
    )
    first = next(iter(forecasters.values()))[0]
    lines: dict[str, Any] = {
        name: rows[0]["per_person"]
        for name, rows in forecasters.items()
        if name == str(rows[0].get("model"))  # what a cell changes in it is in the tables
    }
    lines |= {name: first["baselines"][name]["per_person"] for name in _DRAWN}
    words = (of_set.task, of_set.preset, re.sub(r"\W+", "-", data).strip("-"), "horizons.png")
    plot = Plot(
        "-".join(word for word in words if word),
        of_set.task,
        "Error over the horizon, each person of the test part, by the first seed of each model.",
        png(horizons_figure(lines)),
        broad=True,
    )
    return Section(of_set.task, tables, (plot,))
