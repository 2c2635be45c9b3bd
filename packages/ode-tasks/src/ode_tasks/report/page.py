"""The page: one HTML file that holds everything and asks nobody for anything."""

from __future__ import annotations

import base64
import math
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ode_tasks.benchmark.cell import OK
from ode_tasks.glucose_plot import FORECAST
from ode_tasks.report import payload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ode_tasks.report.chart import Chart
    from ode_tasks.report.rows import Found, Result
    from ode_tasks.report.section import Plot, Section

_PICTURES_A_TASK = 4
_MOST_REASONS = 12
_NAMED = 6
_STATUS_ORDER = (OK, "failed", "timeout", "oom", "crashed", "plugin_failed", "skipped")
_ASSETS = "assets"
# In the order in which they use each other.
_SCRIPTS = ("basics", "data", "query", "table", "chart", "scatter", "cell", "page")


def page(
    directory: Path,
    found: Found,
    sections: Sequence[Section],
    plots: Sequence[Plot],
    charts: Sequence[Chart],
) -> str:
    """Return the whole page as text; `plots` are the images that it shows beside the charts."""
    environment = Environment(
        loader=PackageLoader("ode_tasks.report", _ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = found.results
    reasons = _reasons(results)
    return environment.get_template("page.html.jinja").render(
        title=_title(directory, found.made),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(_asset("page.css")),
        script=Markup("\n".join(_asset(f"{name}.js") for name in _SCRIPTS)),
        count=len(results),
        counts=_counts(results),
        facts=_facts(results),
        command=found.made.get("command") or "",
        commits=", ".join(found.made.get("commits") or ()),
        choices=_choices(sections, results),
        reasons=reasons[:_MOST_REASONS],
        more_reasons=max(0, len(reasons) - _MOST_REASONS),
        tables=[table for section in sections for table in section.tables],
        figures=_figures(results, plots, charts),
        problems=found.problems,
        data=payload.packed(payload.table(results, charts)),
        pieces=payload.pieces(results, directory),
    )


@cache
def _asset(name: str) -> str:
    return resources.files("ode_tasks.report").joinpath(_ASSETS, name).read_text(encoding="utf-8")


def _title(directory: Path, made: dict[str, Any]) -> str:
    if made:
        return f"The study on {made.get('task')}, preset {made.get('preset')}"
    return f"ODE results: {directory.resolve().name}"


def _counts(results: Sequence[Result]) -> list[tuple[str, int]]:
    counted = Counter(str(result.get("status")) for result in results)
    order = {status: place for place, status in enumerate(_STATUS_ORDER)}
    return sorted(counted.items(), key=lambda item: order.get(item[0], len(order)))


def _facts(results: Sequence[Result]) -> list[str]:
    """Return in words when, on what machines and with which versions the results were made."""
    dates = sorted({str(r.get("date"))[:10] for r in results if r.get("date")})
    facts = [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else []
    facts += sorted({str(r.get("machine")) for r in results if r.get("machine")})
    versions = sorted({f"{n} {v}" for r in results for n, v in (r.get("versions") or {}).items()})
    return [*facts, ", ".join(versions)] if versions else facts


def _choices(sections: Sequence[Section], results: Sequence[Result]) -> list[dict[str, Any]]:
    cells = Counter(result.get("task") for result in results)
    finished = Counter(result.get("task") for result in results if result.ok)
    return [
        {
            "name": section.task,
            "finished": f"{finished[section.task]:,}",
            "cells": f"{cells[section.task]:,}",
            "sentences": section.sentences,
        }
        for section in sections
        if section.sentences
    ]


def _reasons(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return each reason why cells did not finish, losses first, then what concerns most cells."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if not result.ok:
            key = (str(result.get("status")), str(result.get("reason") or "no reason was given"))
            found.setdefault(key, []).append(result)
    listed = []
    for (status, text), lost in found.items():
        names = [str(r.get("solver") or r.get("model") or "") for r in lost]
        tasks = dict.fromkeys(str(r.get("task")) for r in lost if r.get("task"))
        listed.append(
            {
                "status": status,
                "text": text,
                "cells": len(lost),
                "of": " · ".join(filter(None, (_few(dict.fromkeys(names)), _few(tasks)))),
                "key": str(lost[0].get("cell") or ""),
            }
        )
    planned = ("skipped",)
    return sorted(listed, key=lambda item: (item["status"] in planned, -int(str(item["cells"]))))


def _few(names: dict[str, None]) -> str:
    several = [name for name in names if name]
    more = f" and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
    return ", ".join(several[:_NAMED]) + more


def _figures(
    results: Sequence[Result], plots: Sequence[Plot], charts: Sequence[Chart]
) -> list[dict[str, Any]]:
    """Return, for each task that has any, its images; its charts are in the data."""
    drawn = [chart.task for chart in charts]
    finished: dict[str, list[Result]] = {}
    for result in results:
        if result.ok:
            finished.setdefault(str(result.get("task")), []).append(result)
    figures = []
    for task in dict.fromkeys([*drawn, *(plot.task for plot in plots), *finished]):
        images = [(p.caption, _data_uri(p.png), p.broad) for p in plots if p.task == task]
        images += _pictures(finished.get(task, ()))
        if images or task in drawn:
            figures.append({"task": task, "images": images})
    return figures


def _pictures(finished: Sequence[Result]) -> list[tuple[str, str, bool]]:
    """Return caption and image of what the best runs of a task drew themselves."""
    higher = any(r.get("higher_is_better") for r in finished)
    pictures: list[tuple[str, str, bool]] = []
    for result in sorted(finished, key=lambda r: _sortable(r.number("score"), higher=higher)):
        if len(pictures) >= _PICTURES_A_TASK:
            break
        # The forecasts of all models are drawn side by side already.
        for path in sorted(set(result.folder.glob("*.png")) - {result.folder / FORECAST}):
            name = " ".join(str(result.get(n)) for n in ("solver", "gradient") if result.get(n))
            caption = f"{path.stem.replace('_', ' ')}, {result.get('model')} {name}".strip()
            pictures.append((caption, _data_uri(path.read_bytes()), False))
    return pictures[:_PICTURES_A_TASK]


def _sortable(value: float | None, *, higher: bool) -> float:
    if value is None:
        return math.inf
    return -value if higher else value


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
