"""A row as a file: read back, and with values that JSON can write."""

from __future__ import annotations

import json
import math
import numbers
from typing import TYPE_CHECKING, Any

from ode_core.errors import DataError
from ode_tasks.benchmark.cell import SCHEMA, upgraded

if TYPE_CHECKING:
    from pathlib import Path

    from ode_tasks.benchmark.cell import Row


def load(path: Path) -> Row:
    """Return the row in a file, in the form of this version however old it is.

    Raises DataError where the file is not one of the suite's rows, or of a newer version.
    """
    try:
        row = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({error}); remove it and run again"
        ) from None
    if not (isinstance(row, dict) and isinstance(row.get("status"), str) and "task" in row):
        raise DataError(f"{path} is not a result of this suite (no task and status in it)")
    if isinstance(row.get("schema"), int) and row["schema"] > SCHEMA:
        raise DataError(f"{path} was written by a newer version of ode-tasks; update to read it")
    return upgraded(row)


def plain(value: Any) -> Any:
    """Return the value with null for every number that JSON cannot write, at any depth."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        return None
    return value


def written(value: Any) -> int | float | str:
    """Return what is written for a value that JSON has no rule for, such as NumPy's scalars."""
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)
