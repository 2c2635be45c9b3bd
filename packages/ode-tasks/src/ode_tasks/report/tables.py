"""The flat tables of stored rows, and the command that makes a row again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ode_tasks.benchmark.cell import Row
    from ode_tasks.report.rows import Result

_TEXT, _REAL, _WHOLE, _YES_NO = "string", "float64", "Int64", "boolean"

COLUMNS: dict[str, str] = {
    "cell": _TEXT,
    "task": _TEXT,
    "model": _TEXT,
    "solver": _TEXT,
    "gradient": _TEXT,
    "rtol": _REAL,
    "atol": _REAL,
    "dt": _REAL,
    "preset": _TEXT,
    "seed": _WHOLE,
    "device": _TEXT,
    "data": _TEXT,
    "settings": _TEXT,
    "status": _TEXT,
    "reason": _TEXT,
    "score_name": _TEXT,
    "score": _REAL,
    "higher_is_better": _YES_NO,
    "loss": _REAL,
    "train_loss": _REAL,
    "solver_error": _REAL,
    "f_forward": _REAL,
    "f_backward": _REAL,
    "memory_bytes": _REAL,
    "memory_bytes_direct": _REAL,
    "memory_kind": _TEXT,
    "parameters": _WHOLE,
    "epoch_seconds": _REAL,
    "seconds": _REAL,
    "solver_package": _TEXT,
    "torch": _TEXT,
    "machine": _TEXT,
    "threads": _WHOLE,
    "date": _TEXT,
    "command": _TEXT,
    "source": _TEXT,
}
"""The columns that every table of results has, in this order, whatever the rows hold."""

_HISTORY: dict[str, str] = {
    "cell": _TEXT,
    "task": _TEXT,
    "model": _TEXT,
    "solver": _TEXT,
    "gradient": _TEXT,
    "rtol": _REAL,
    "preset": _TEXT,
    "seed": _WHOLE,
    "epoch": _WHOLE,
    "train_loss": _REAL,
    "test_score": _REAL,
}

_OF_EPOCHS = ("epoch", "train_loss", "test_score")


def table(results: Sequence[Result]) -> pd.DataFrame:
    """Return one flat row a result: the columns of `COLUMNS`, then the tasks' own by name."""
    rows = [flat(result) for result in results]
    extras = sorted({name for row in rows for name in row} - COLUMNS.keys())
    return _frame(rows, COLUMNS | {name: _kind(row.get(name) for row in rows) for name in extras})


def histories(results: Sequence[Result]) -> pd.DataFrame:
    """Return one flat row for each epoch of each result."""
    own: dict[str, list[Any]] = {}
    counts = []
    length = 0
    for result in results:
        epochs = result.get("history") or ()
        counts.append(len(epochs))
        for epoch in epochs:
            if epoch.keys() != own.keys():  # hardly ever: all runs of a task keep the same
                for name in epoch.keys() - own.keys():
                    own[name] = [None] * length
            for name, column in own.items():
                column.append(epoch.get(name))
            length += 1
    columns = {}
    for name, kind in _HISTORY.items():
        if name in _OF_EPOCHS:
            columns[name] = _series(own.pop(name, [None] * length), kind)
        else:
            of_runs = _series([result.row.get(name) for result in results], kind)
            columns[name] = of_runs.repeat(counts).reset_index(drop=True)
    own = {name: own[name] for name in sorted(own) if _flat(own[name])}
    return pd.DataFrame(columns | {n: _series(values, _kind(values)) for n, values in own.items()})


def _flat(column: Sequence[Any]) -> bool:
    return not any(isinstance(value, list | dict) for value in column)


def flat(result: Result) -> Row:
    """Return a result's scalars, with what nested fields say in columns of their own."""
    row = scalars(result.row)
    packages, versions = result.get("packages") or {}, result.get("versions") or {}
    row["solver_package"] = packages.get("solver")
    row["torch"] = versions.get("torch")
    row["settings"] = " ".join(f"{k}={v}" for k, v in (result.get("settings") or {}).items())
    row["command"] = command(result.row)
    row["source"] = result.source.as_posix()
    return {name: None if value == "" else value for name, value in row.items()}


def scalars(row: Row) -> Row:
    """Return the fields that are no lists and no mappings."""
    return {name: value for name, value in row.items() if not isinstance(value, list | dict)}


def command(row: Row) -> str:
    """Return the command line that runs this once more, empty where there is nothing to run."""
    if not row.get("task"):
        return ""
    words = ["ode", *(w for path in row.get("plugin_files") or () for w in ("--plugin", path))]
    words += ["run", row["task"]]
    options = ("model", "solver", "gradient", "rtol", "atol", "dt", "preset", "seed", "device")
    for name in (*options, "data"):
        if row.get(name) not in (None, ""):
            words += [f"--{name}", str(row[name])]
    for name, value in (row.get("settings") or {}).items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def _kind(values: Iterable[Any]) -> str:
    present = [value for value in values if value is not None]
    return _REAL if all(isinstance(v, int | float) for v in present) else _TEXT


def _frame(rows: Sequence[Row], kinds: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {name: _series([row.get(name) for row in rows], kind) for name, kind in kinds.items()}
    )


def _series(values: Sequence[Any], kind: str) -> pd.Series:
    if kind == _TEXT:
        values = [None if value is None else str(value) for value in values]
    else:
        values = [value if isinstance(value, int | float) else None for value in values]
    return pd.Series(values, dtype=kind)
