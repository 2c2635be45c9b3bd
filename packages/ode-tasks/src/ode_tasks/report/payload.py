"""What the page holds of every cell: a table for sorting and filtering, and all of it in pieces.

The table is columns, texts as numbers into a list of the different ones; a piece is the rows that
stand one after the other, unpacked only when one of them is opened. All is JSON, compressed.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ode_tasks.benchmark.store import OUTPUT
from ode_tasks.report.rows import Result, scientific
from ode_tasks.report.tables import command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ode_tasks.report.chart import Chart

PIECE = 128
_LONGEST_OUTPUT = 6_000
_LEVEL = 4  # a twentieth larger than by the default, in half its time
_MIB = 2**20


@dataclass(frozen=True)
class Column:
    """A column of the table: its field, its heading, and whether it holds numbers."""

    field: str
    heading: str
    number: bool = False


COLUMNS = (
    Column("solver", "solver"),
    Column("task", "task"),
    Column("model", "model"),
    Column("gradient", "gradient"),
    Column("step", "tolerance or step"),
    Column("preset", "preset"),
    Column("seed", "seed", number=True),
    Column("device", "device"),
    Column("status", "status"),
    Column("score", "score", number=True),
    Column("solver_error", "solver error", number=True),
    Column("f_forward", "evaluations", number=True),
    Column("f_backward", "backward", number=True),
    Column("memory", "memory, MiB", number=True),
    Column("epoch_seconds", "s / epoch", number=True),
    Column("seconds", "seconds", number=True),
    Column("package", "package"),
    Column("reason", "reason"),
    Column("cell", "cell"),
)
_ALWAYS = ("task", "solver", "status", "score", "solver_error", "f_forward", "seconds")
_NEVER = ("package", "cell")


def packed(value: Any) -> str:
    """Return a value as JSON, compressed, in letters that HTML leaves as they are."""
    return _packed(json.dumps(value, separators=(",", ":"), allow_nan=False))


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), _LEVEL, mtime=0)).decode()


def table(results: Sequence[Result], charts: Sequence[Chart]) -> dict[str, Any]:
    """Return the columns of all results, in their order, and the charts."""
    return {
        "piece": PIECE,
        "columns": [_column(column, results) for column in COLUMNS],
        "charts": [chart.plain() for chart in charts],
    }


def _column(column: Column, results: Sequence[Result]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": column.field, "heading": column.heading}
    value = _DERIVED.get(column.field)
    if value is not None:
        values = [value(result) for result in results]
    elif column.number:
        values = [result.number(column.field) for result in results]
    else:
        values = [result.row.get(column.field) for result in results]
    differing = len({v for v, result in zip(values, results, strict=True) if result.ok}) > 1
    made["shown"] = column.field in _ALWAYS or (column.field not in _NEVER and differing)
    if column.field == "reason":
        made["shown"] = any(values)
    if column.number:
        return made | {"numbers": [None if v is None else float(f"{v:.6g}") for v in values]}
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(str(v or ""), len(numbers)) for v in values]
    return made | {"texts": list(numbers), "codes": codes}


def _step(result: Result) -> str:
    rtol, dt = result.number("rtol"), result.number("dt")
    words = [] if rtol is None else [f"rtol {scientific(rtol)}"]
    return " ".join(words if dt is None else [*words, f"dt {dt:g}"])


def _package(result: Result) -> str | None:
    return (result.row.get("packages") or {}).get("solver")


def _memory(result: Result) -> float | None:
    held = result.number("memory_bytes")
    return None if held is None else held / _MIB


_DERIVED: dict[str, Callable[[Result], Any]] = {
    "step": _step,
    "package": _package,
    "memory": _memory,
}


def pieces(results: Sequence[Result], directory: Path) -> list[str]:
    """Return all that is known of every result, `PIECE` of them at a time."""
    return [
        _packed("[" + ",".join(_whole(r, directory) for r in results[start : start + PIECE]) + "]")
        for start in range(0, len(results), PIECE)
    ]


def _whole(result: Result, directory: Path) -> str:
    beside = {"command": command(result.row), "source": result.source.as_posix()}
    beside["folder"] = os.path.relpath(result.folder, directory)
    if not result.ok:
        beside["output"] = _output(result.folder / OUTPUT)
    head = json.dumps({"row": result.row, **beside}, separators=(",", ":"), default=str)
    lists = ",".join(f'"{name}":{text.decode()}' for name, text in result.packed.items())
    return f'{head[:-1]},"lists":{{{lists}}}}}'


def _output(path: Path) -> str:
    """Return the end of what a cell printed, empty where it printed nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text if len(text) <= _LONGEST_OUTPUT else "…" + text[-_LONGEST_OUTPUT:]
