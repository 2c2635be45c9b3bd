"""Rows as a file for other programs."""

from __future__ import annotations

import csv
import importlib
import io
import json
from typing import TYPE_CHECKING, Any

from ode_core.errors import ArgumentError, PluginError
from ode_tasks import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ode_tasks.benchmark.cell import Row

CSV, PARQUET = ".csv", ".parquet"


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name.

    Raises ArgumentError for one that is none, PluginError for Parquet where pyarrow is not here.
    """
    kind = path.suffix.lower()
    if kind not in (CSV, PARQUET):
        raise ArgumentError(f"--export {path}: a table is written as {CSV} or {PARQUET}")
    if kind == PARQUET:
        _pyarrow("pyarrow")
    return kind


def export(rows: Sequence[Row], path: Path, columns: Sequence[str] = ()) -> None:
    """Write the rows, with the given columns or all; an earlier file of that name is replaced.

    A column holds numbers, booleans, or texts; where it has several kinds they are texts. Raises
    what `kind_of` raises, and OutputError where nothing can be written there.
    """
    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    table = {name: _of_one_kind([row.get(name) for row in rows]) for name in names}
    content = _csv(table) if kind_of(path) == CSV else _parquet(table)
    files.replace(path, content)


def _csv(table: dict[str, list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue().encode()


def _parquet(table: dict[str, list[Any]]) -> bytes:
    buffer = io.BytesIO()
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    parquet.write_table(arrow.table(table), buffer)
    return buffer.getvalue()


def _pyarrow(module: str) -> Any:
    # By name, so that all but this works without it, and nothing waits for its import.
    try:
        return importlib.import_module(module)
    except ImportError:
        raise PluginError(
            "Parquet files need a package that is not installed: pip install 'ode-tasks[parquet]'; "
            "--export takes a .csv as well",
            "ode-tasks",
        ) from None


def _of_one_kind(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {float} or kinds <= {bool} or kinds <= {str}:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
