"""Forecasting models side by side: their scores beside the baselines', and one stretch drawn."""

from __future__ import annotations

import math
import re
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ode_core.errors import DataError
from ode_tasks import glucose_plot
from ode_tasks.glucose_scores import PREDICTIONS
from ode_tasks.report.groups import Group, Set, sets
from ode_tasks.report.plots import png
from ode_tasks.report.section import Plot, Section, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from ode_tasks.report.rows import Result

_MEASURES = {"rmse": "RMSE", "mae": "MAE", "ape": "APE %", "coverage90": "in 90 % interval"}
_HORIZON = re.compile(r"rmse_(\d+)")


def sections(results: Sequence[Result]) -> list[Section]:
    """Return one comparison for each set of runs on the same data with the same preset.

    Those are the runs that report the scores of baselines.
    """
    scored = [r for r in results if r.ok and isinstance(r.get("baselines"), dict)]
    return [_compared(of_set) for of_set in sets(scored)]


def _compared(of_set: Set) -> Section:
    ranked = sorted(of_set.groups, key=_score)
    data = str(ranked[0].get("data") or "")
    title = f"{of_set.name}: forecasts" + (f" of {data}" if data else "")
    columns, rows = _table(ranked)
    table = Table(
        title,
        columns,
        rows,
        (
            "RMSE and MAE in mg/dL, over all windows of the test part, means over seeds. Smaller "
            "is better; of the 90 % interval, 0.90 is.",
        ),
    )
    problems: list[str] = []
    plots = _plots(of_set, ranked, data, problems)
    return Section(of_set.task, (table,), plots, tuple(problems))


def _plots(
    of_set: Set, groups: Sequence[Group], data: str, problems: list[str]
) -> tuple[Plot, ...]:
    """Return the forecasts of the first seed of each model, drawn; say what could not be read."""
    tables: dict[str, pd.DataFrame] = {}
    for group in groups:
        path = group.runs[0].folder / PREDICTIONS
        if path.exists():
            try:
                tables.setdefault(str(group.get("model")), glucose_plot.read(path))
            except DataError as error:
                problems.append(str(error))
    if not tables:
        return ()
    try:
        image = png(glucose_plot.figure(tables))
    except DataError as error:
        problems.append(str(error))
        return ()
    caption = "The same stretch of the test part by the first seed of each model."
    # Two sets of one task and preset differ in their data only.
    suffix = re.sub(r"\W+", "-", data).strip("-")
    words = (of_set.task, of_set.preset, suffix, "forecasts.png")
    name = "-".join(part for part in words if part)
    return (Plot(name, of_set.task, caption, image, broad=True),)


def _table(groups: Sequence[Group]) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    example = groups[0].runs[0].row
    horizons = sorted(int(m.group(1)) for key in example if (m := _HORIZON.fullmatch(key)))
    cells = {
        f"{heading}, {horizon} min": f"{measure}_{horizon}"
        for measure, heading in _MEASURES.items()
        for horizon in horizons
    }
    rows = [
        {"forecast by": _called(group)} | {c: group.text(key, ".2f") for c, key in cells.items()}
        for group in groups
    ]
    baselines: Mapping[str, Mapping[str, Any]] = example["baselines"]
    rows += [
        {"forecast by": name.replace("_", " ")}
        | {column: _written(scores.get(key)) for column, key in cells.items()}
        for name, scores in baselines.items()
    ]
    return ("forecast by", *cells), tuple(rows)


def _called(group: Group) -> str:
    if group.cell:
        return group.cell.replace("_", " ")
    return " ".join(filter(None, (str(group.get("model")), str(group.get("solver") or ""))))


def _written(value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:.2f}"


def _score(group: Group) -> float:
    scores = group.values("score")
    return fmean(scores) if scores else math.inf
