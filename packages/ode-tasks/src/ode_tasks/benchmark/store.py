"""Results on disk: one file for each finished cell, written once and whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ode_core.errors import DataError
from ode_tasks.benchmark import index
from ode_tasks.benchmark.cell import PLANNED_STATUSES, PLUGIN_FAILED, SCHEMA, identity
from ode_tasks.benchmark.index import Indexed
from ode_tasks.benchmark.rowfile import load, plain, written

if TYPE_CHECKING:
    from ode_tasks.benchmark.cell import Cell, Row
    from ode_tasks.benchmark.index import Table
    from ode_tasks.benchmark.plan import Planned

__all__ = ["ARTEFACTS", "CELLS", "OUTPUT", "Store", "load", "plain"]

CELLS = "cells"
ARTEFACTS = "artefacts"
OUTPUT = "output.txt"
_MARK = "store.json"
# A file system without hard links says so in one of these ways.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


@dataclass(frozen=True)
class Store:
    """The folder of a benchmark.

    `cells/<task>/<KEY>.json` are the rows and nothing else lies there, `artefacts/<KEY>/` is what
    a cell left beside its row, `tmp/` is where files grow until they are whole, `claims/` says who
    is at which cell, `index/` is a copy of the rows that is quick to read.
    """

    root: Path

    @property
    def temporary(self) -> Path:
        """Where files grow, on the file system of the results."""
        return self.root / "tmp"

    @property
    def claims(self) -> Path:
        """Where it stands who is at which cell."""
        return self.root / "claims"

    def prepare(self) -> None:
        """Make the folders.

        Raises DataError where that cannot be done, where no file can be written into them, and for
        a store that a newer version made.
        """
        self._check_version()
        try:
            for folder in (self.root / CELLS, self.root / ARTEFACTS, self.temporary, self.claims):
                folder.mkdir(parents=True, exist_ok=True)
            if not (self.root / _MARK).exists():
                self._put(self.root / _MARK, json.dumps({"schema": SCHEMA}) + "\n")
            with tempfile.TemporaryFile(dir=self.temporary) as file:
                file.write(b"\0")  # a full disk lets files be made
        except FileExistsError:
            if not self.root.is_dir():
                raise DataError(
                    f"results cannot be stored in {self.root} (it is a file); choose another --out"
                ) from None
        except OSError as error:
            raise DataError(
                f"results cannot be stored in {self.root} ({error.strerror}); choose another --out"
            ) from error

    def _check_version(self) -> None:
        try:
            mark = json.loads((self.root / _MARK).read_text(encoding="utf-8"))
            schema = mark["schema"]
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, TypeError, KeyError):
            raise DataError(
                f"{self.root / _MARK} is not that of a store of results; choose another --out"
            ) from None
        if not isinstance(schema, int) or schema > SCHEMA:
            raise DataError(
                f"{self.root} was made by a newer version of ode-tasks (results of form {schema}, "
                f"this one knows {SCHEMA}); update, or choose another --out"
            )

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

    def table(self, fields: Iterable[str] | None = None) -> Indexed:
        """Return all rows at once, without their lists, and a sentence on each unreadable file.

        Every row has `path`, where its file lies below `cells`. Of `fields`, if given, only those
        are returned. Raises what `columns` raises.
        """
        table = self.columns()
        return Indexed(table.rows(fields), table.problems)

    def columns(self) -> Table:
        """Return all rows by columns.

        The index beside the files makes this quick; it is extended on the way. Raises DataError for
        a store of a newer version.
        """
        self._check_version()
        return index.read(self.root / CELLS, self.root / "index", load)

    def write(self, cell: Cell, row: Row) -> Row:
        """Store the outcome of a cell in one go and return the row as it will be read.

        Raises DataError where that cannot be done, and where something lies there already.
        """
        row = plain(row)
        path = self.path(cell)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._put(path, json.dumps(row, indent=1, default=written, allow_nan=False) + "\n")
        except FileExistsError:
            raise DataError(f"{path} is there already, and a result is written once") from None
        except OSError as error:
            raise DataError(
                f"{path} could not be written ({error.strerror}); what was stored before is whole, "
                "and the same command goes on once there is room"
            ) from error
        return row

    def _put(self, path: Path, text: str) -> None:
        """Make a file that is whole from its first moment on, and raise where there is one."""
        handle, name = tempfile.mkstemp(dir=self.temporary, prefix=f"{path.stem}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)  # a temporary file is its owner's alone
            _link(name, path)
        finally:
            Path(name).unlink(missing_ok=True)

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
        for row in self.table().rows:
            item = by_key.get(row["cell"])
            decision = (row["status"], row["reason"])
            if row["status"] not in PLANNED_STATUSES:
                ran.add(identity(row))
                if item is not None:
                    outcomes[row["cell"]] = row
            elif item is not None and (item.status, item.reason) == decision:
                continue
            elif row["status"] == PLUGIN_FAILED or identity(row) in wanted:
                (self.root / CELLS / row["path"]).unlink(missing_ok=True)
        for item in planned:
            if item.status and item.cell.key not in outcomes:
                row = item.cell.row(item.status, item.reason)
                outcomes[item.cell.key] = row
                if identity(row) not in ran and not self.has(item.cell):
                    self._settled(item.cell, row)
        return list(outcomes.values())

    def _settled(self, cell: Cell, row: Row) -> None:
        try:
            self.write(cell, row)
        except DataError:
            if not self.has(cell):  # another sweep may have come to the same just now
                raise


def _link(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, "there already", str(target)) from None
        os.replace(source, target)
