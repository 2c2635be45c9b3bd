"""Results on disk: one file for each finished cell, written once and whole."""

from __future__ import annotations

import json
import math
import numbers
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ode_core.errors import DataError
from ode_tasks.benchmark.cell import PLANNED_STATUSES, PLUGIN_FAILED, SCHEMA, Row, identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ode_tasks.benchmark.cell import Cell
    from ode_tasks.benchmark.plan import Planned

CELLS = "cells"
ARTEFACTS = "artefacts"
OUTPUT = "output.txt"


@dataclass(frozen=True)
class Store:
    """The folder of a benchmark.

    `cells/<task>/<KEY>.json` are the rows and nothing else lies there, `artefacts/<KEY>/` is what
    a cell left beside its row, `tmp/` is where files grow until they are whole.
    """

    root: Path

    @property
    def temporary(self) -> Path:
        """Where files grow, on the file system of the results."""
        return self.root / "tmp"

    def prepare(self) -> None:
        """Make the folders; raises DataError where that cannot be done."""
        try:
            for folder in (self.root / CELLS, self.root / ARTEFACTS, self.temporary):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"results cannot be stored in {self.root} ({error.strerror}); choose another --out"
            ) from error

    def path(self, cell: Cell) -> Path:
        """Return where the row of a cell lies or will lie."""
        return self.root / CELLS / (cell.task or "plugins").replace(":", "_") / f"{cell.key}.json"

    def artefacts(self, cell: Cell) -> Path:
        """Return the folder for what a cell leaves beside its row."""
        return self.root / ARTEFACTS / cell.key

    def has(self, cell: Cell) -> bool:
        """Return whether the cell has an outcome."""
        return self.path(cell).exists()

    def read(self, cell: Cell) -> Row | None:
        """Return the stored row, None if there is none; raises DataError for an unreadable one."""
        path = self.path(cell)
        return load(path) if path.exists() else None

    def rows(self) -> Iterator[tuple[Path, Row]]:
        """Yield every stored row and where it lies; raises DataError for an unreadable one."""
        for path in sorted((self.root / CELLS).glob("*/*.json")):
            yield path, load(path)

    def write(self, cell: Cell, row: Row) -> Row:
        """Store the outcome of a cell in one go and return the row as it will be read."""
        row = plain(row)
        path = self.path(cell)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.temporary, prefix=f"{cell.key}-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(row, file, indent=1, default=_written, allow_nan=False)
                    file.write("\n")
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).chmod(0o644)  # a temporary file is its owner's alone
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise DataError(f"{path} could not be written: {error.strerror}") from error
        return row

    def forget(self, cell: Cell) -> None:
        """Remove the outcome of a cell, so that it is run again."""
        self.path(cell).unlink(missing_ok=True)
        self.clear(cell)

    def clear(self, cell: Cell) -> None:
        """Remove what an earlier, unfinished run of the cell left beside its row."""
        shutil.rmtree(self.artefacts(cell), ignore_errors=True)

    def settle(self, planned: Iterable[Planned]) -> list[Row]:
        """Bring the rows that a plan decides up to date and return what cells of the plan have.

        A skip is stored unless that cell has once run with other data or versions. A skip that the
        plan decides otherwise is removed, and so are plugins that failed and no longer do.
        """
        planned = list(planned)
        by_key = {item.cell.key: item for item in planned}
        wanted = {identity(item.cell.row("")) for item in planned}
        outcomes: dict[str, Row] = {}
        ran = set()
        for path, row in self.rows():
            item = by_key.get(row["cell"])
            decision = (row["status"], row["reason"])
            if row["status"] not in PLANNED_STATUSES:
                ran.add(identity(row))
                if item is not None:
                    outcomes[row["cell"]] = row
            elif item is not None and (item.status, item.reason) == decision:
                continue
            elif row["status"] == PLUGIN_FAILED or identity(row) in wanted:
                path.unlink(missing_ok=True)
        for item in planned:
            if item.status and item.cell.key not in outcomes:
                row = item.cell.row(item.status, item.reason)
                outcomes[item.cell.key] = row
                if identity(row) not in ran and not self.has(item.cell):
                    self.write(item.cell, row)
        return list(outcomes.values())


def load(path: Path) -> Row:
    """Return the row in a file; raises DataError where the file is not one of the suite's rows."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({error}); remove it and run again"
        ) from None
    if not (isinstance(row, dict) and isinstance(row.get("status"), str) and "task" in row):
        raise DataError(f"{path} is not a result of this suite (no task and status in it)")
    if isinstance(row.get("schema"), int) and row["schema"] > SCHEMA:
        raise DataError(f"{path} was written by a newer version of ode-tasks; update to read it")
    return row


def plain(value: Any) -> Any:
    """Return the value with null for every number that JSON cannot write, at any depth."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        return None
    return value


def _written(value: Any) -> int | float | str:
    if isinstance(value, numbers.Integral):  # NumPy's scalars, for which json has no rule
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)
