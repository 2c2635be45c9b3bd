"""The page: one HTML file that holds everything and asks nobody for anything."""

from __future__ import annotations

import base64
import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ode_tasks.benchmark.cell import OK
from ode_tasks.glucose_plot import FORECAST
from ode_tasks.report.rows import Result, command, scientific

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ode_tasks.report.rows import Found
    from ode_tasks.report.section import Plot, Section

_PICTURES_A_TASK = 4
_STATUS_ORDER = (OK, "failed", "timeout", "crashed", "plugin_failed", "skipped")


@dataclass(frozen=True)
class Column:
    """A column of the table: its field, its heading, and how a number in it is written."""

    field: str
    heading: str
    form: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers, which are set flush right and sorted by size."""
        return bool(self.form)


_COLUMNS = (
    Column("task", "task"),
    Column("model", "model"),
    Column("solver", "solver"),
    Column("gradient", "gradient"),
    Column("step", "tolerance or step"),
    Column("preset", "preset"),
    Column("seed", "seed", "d"),
    Column("device", "device"),
    Column("status", "status"),
    Column("score", "score", ".4g"),
    Column("solver_error", "solver error", ".2g"),
    Column("f_forward", "evaluations, forward", ".4g"),
    Column("f_backward", "backward", ".4g"),
    Column("memory_bytes", "memory, MiB", ".4g"),
    Column("seconds", "seconds", ".3g"),
)
_ALWAYS = ("task", "solver", "status", "score", "solver_error", "f_forward", "seconds")


def page(directory: Path, found: Found, sections: Sequence[Section], plots: Sequence[Plot]) -> str:
    """Return the whole page as text."""
    environment = Environment(
        loader=PackageLoader("ode_tasks.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = found.results
    columns = _columns(results)
    return environment.get_template("page.html.jinja").render(
        title=_title(directory, found.made),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=_counts(results),
        facts=_facts(results),
        command=found.made.get("command") or "",
        commits=", ".join(found.made.get("commits") or ()),
        tasks=[_best(task, results) for task in _tasks(results)],
        tables=[table for section in sections for table in section.tables],
        figures=[_figures(task, results, plots) for task in _tasks(results)],
        problems=found.problems,
        columns=columns,
        rows=[_row(result, columns) for result in results],
        shown_tasks=_tasks(results),
    )


def _title(directory: Path, made: dict[str, Any]) -> str:
    if made:
        return f"The study on {made.get('task')}, preset {made.get('preset')}"
    return f"ODE results: {directory.resolve().name}"


def _tasks(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(str(r.get("task")) for r in results if r.get("task")))


def _counts(results: Sequence[Result]) -> list[tuple[str, int]]:
    counted = Counter(str(result.get("status")) for result in results)
    order = {status: place for place, status in enumerate(_STATUS_ORDER)}
    return sorted(counted.items(), key=lambda item: order.get(item[0], len(order)))


def _facts(results: Sequence[Result]) -> list[str]:
    """Return in words when, on what machines and with which versions the results were made."""
    dates = sorted(str(r.get("date"))[:10] for r in results if r.get("date"))
    facts = [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else []
    facts += sorted({str(r.get("machine")) for r in results if r.get("machine")})
    versions = sorted({f"{n} {v}" for r in results for n, v in (r.get("versions") or {}).items()})
    return [*facts, ", ".join(versions)] if versions else facts


def _best(task: str, results: Sequence[Result]) -> dict[str, Any]:
    of_task = [r for r in results if r.get("task") == task]
    finished = [r for r in of_task if r.ok]
    higher = any(r.get("higher_is_better") for r in finished)
    names = [str(r.get("score_name")) for r in finished if r.get("score_name")]
    return {
        "task": task,
        "ok": len(finished),
        "cells": len(of_task),
        "score_name": names[0].replace("_", " ") if names else "",
        "score": _extreme(finished, "score", ".4g", max if higher else min),
        "error": _extreme(finished, "solver_error", ".2g", min),
        "seconds": _extreme(finished, "seconds", ".3g", min),
    }


def _extreme(
    results: Sequence[Result], name: str, form: str, choose: Callable[..., float]
) -> tuple[str, str]:
    present = [r for r in results if r.number(name) is not None]
    if not present:
        return "", ""
    best = choose(result.number(name) or 0.0 for result in present)
    by = [str(r.get("solver") or r.get("model")) for r in present if r.number(name) == best]
    return format(best, form), by[0] if len(by) == 1 else f"{len(by)} alike"


def _figures(
    task: str, results: Sequence[Result], plots: Sequence[Plot]
) -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the task, and caption and image of its plots and of its broad pictures."""
    of_task = [plot for plot in plots if plot.task == task]
    narrow, broad = (
        [(plot.caption, _data_uri(plot.png)) for plot in of_task if plot.broad is wanted]
        for wanted in (False, True)
    )
    return task, narrow, broad + _pictures(task, results)


def _pictures(task: str, results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return caption and image of what the best runs of a task drew themselves."""
    finished = [r for r in results if r.ok and r.get("task") == task]
    higher = any(r.get("higher_is_better") for r in finished)
    finished.sort(key=lambda r: _sortable(r.number("score"), higher=higher))
    pictures: list[tuple[str, str]] = []
    for result in finished:
        # The forecasts of all models are drawn side by side already.
        for path in sorted(set(result.folder.glob("*.png")) - {result.folder / FORECAST}):
            name = " ".join(str(result.get(n)) for n in ("solver", "gradient") if result.get(n))
            caption = f"{path.stem.replace('_', ' ')}, {result.get('model')} {name}".strip()
            pictures.append((caption, _data_uri(path.read_bytes())))
    return pictures[:_PICTURES_A_TASK]


def _sortable(value: float | None, *, higher: bool) -> float:
    if value is None:
        return math.inf
    return -value if higher else value


def _columns(results: Sequence[Result]) -> list[Column]:
    """Return the columns in which rows differ, and those that are always of interest."""
    return [
        column
        for column in _COLUMNS
        if column.field in _ALWAYS or len({_value(r, column.field) for r in results if r.ok}) > 1
    ]


def _row(result: Result, columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "key": str(result.get("cell")),
        "status": str(result.get("status")),
        "task": str(result.get("task")),
        "reason": str(result.get("reason") or ""),
        "command": command(result.row),
        "source": result.source.as_posix(),
        "cells": [_cell(result, column) for column in columns],
    }


def _value(result: Result, name: str) -> Any:
    if name != "step":
        return result.get(name)
    rtol, dt = result.number("rtol"), result.number("dt")
    words = [] if rtol is None else [f"rtol {scientific(rtol)}"]
    return " ".join(words if dt is None else [*words, f"dt {dt:g}"])


def _cell(result: Result, column: Column) -> dict[str, Any]:
    value = _value(result, column.field)
    text = "" if value is None else str(value)
    classes = ["number"] if column.numeric else []
    if column.field == "status":
        classes += ["status", text]
        text = text.replace("_", " ")
    sort: str | float = text
    number = result.number(column.field) if column.numeric else None
    if number is not None:
        sort = number
        number = number / 2**20 if column.field == "memory_bytes" else number
        text = format(int(number) if column.form == "d" else number, column.form)
    return {"column": column, "text": text, "sort": sort, "classes": " ".join(classes)}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
