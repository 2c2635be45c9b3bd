"""Forecasting models side by side: their scores beside the baselines', and one stretch drawn."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ode_core.errors import DataError
from ode_tasks import glucose_plot
from ode_tasks.glucose_scores import PREDICTIONS
from ode_tasks.report.plots import Plot, png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ode_tasks.report.rows import Result

_MEASURES = {"rmse": "RMSE", "mae": "MAE", "ape": "APE %", "coverage90": "in 90 % interval"}
_HORIZON = re.compile(r"rmse_(\d+)")


@dataclass(frozen=True)
class Forecasts:
    """The best run of each model on the same windows: a table, a plot, and what went wrong."""

    task: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    plot: Plot | None = None
    problems: list[str] = field(default_factory=list)


def forecasts(results: Sequence[Result]) -> list[Forecasts]:
    """Return one comparison for each set of runs on the same data with the same preset.

    Those are the runs that report the scores of baselines.
    """
    sets: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        if result.ok and isinstance(result.get("baselines"), dict):
            key = tuple(str(result.get(name) or "") for name in ("task", "preset", "data"))
            best = sets.setdefault((key[0], key[1], key[2]), {})
            model = str(result.get("model"))
            if model not in best or _score(result) < _score(best[model]):
                best[model] = result
    return [_compared(*key, best) for key, best in sets.items()]


def _compared(task: str, preset: str, data: str, best: Mapping[str, Result]) -> Forecasts:
    ranked = dict(sorted(best.items(), key=lambda item: _score(item[1])))
    columns, rows = _table(ranked)
    title = f"{task} ({preset}): forecasts" + (f" of {data}" if data else "")
    compared = Forecasts(task, title, columns, rows)
    tables = {}
    for model, result in ranked.items():
        path = result.folder / PREDICTIONS
        if path.exists():
            try:
                tables[model] = glucose_plot.read(path)
            except DataError as error:
                compared.problems.append(str(error))
    if not tables:
        return compared
    try:
        image = png(glucose_plot.figure(tables))
    except DataError as error:
        compared.problems.append(str(error))
        return compared
    caption = "The same stretch of the test part by the best run of each model."
    # Two sets of one task and preset differ in their data only.
    suffix = re.sub(r"\W+", "-", data).strip("-")
    name = "-".join(part for part in (task, preset, suffix, "forecasts.png") if part)
    return Forecasts(
        task, title, columns, rows, Plot(name, task, caption, image, broad=True), compared.problems
    )


def _table(best: Mapping[str, Result]) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    lines: dict[str, Mapping[str, Any]] = {
        " ".join(filter(None, (model, str(result.get("solver") or "")))): result.row
        for model, result in best.items()
    }
    first = next(iter(best.values()))
    lines |= {name.replace("_", " "): scores for name, scores in first.row["baselines"].items()}
    horizons = sorted(int(m.group(1)) for key in first.row if (m := _HORIZON.fullmatch(key)))
    cells = {
        f"{heading}, {horizon} min": f"{measure}_{horizon}"
        for measure, heading in _MEASURES.items()
        for horizon in horizons
    }
    rows = tuple(
        {"forecast by": name} | {column: _written(scores.get(key)) for column, key in cells.items()}
        for name, scores in lines.items()
    )
    return ("forecast by", *cells), rows


def _written(value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:.2f}"


def _score(result: Result) -> float:
    score = result.number("score")
    return math.inf if score is None else score
