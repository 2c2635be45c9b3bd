"""Stored rows read back, and the flat tables that are made of them."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ode_core.errors import DataError
from ode_tasks.benchmark.cell import OK
from ode_tasks.benchmark.store import ARTEFACTS, CELLS, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ode_tasks.benchmark.cell import Row

METRICS = "metrics.json"
STUDY = "study.json"
_LONG = ("history", "work_precision")
_DEEP = 2  # a study's runs lie in CELL/seed-N

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

_ORDER = ("task", "model", "solver", "gradient", "rtol", "preset", "seed", "date", "cell")


@dataclass(frozen=True)
class Result:
    """A stored row, the file it was read from and the folder of what lies beside it.

    `packed` are fields of the row that are long lists, as JSON: so a hundred thousand rows fit into
    memory. `get` unpacks them.
    """

    row: Row
    source: Path
    folder: Path
    packed: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the run has an outcome that can be compared."""
        return bool(self.row["status"] == OK)

    def get(self, name: str) -> Any:
        """Return a field, None where the row has none."""
        return json.loads(self.packed[name]) if name in self.packed else self.row.get(name)

    def number(self, name: str) -> float | None:
        """Return a field as a float, None where it is no number."""
        value = self.row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value)


@dataclass(frozen=True)
class Found:
    """What a folder holds: the results in their order, and a sentence on each file left out.

    `made` is what the study that was made there says of itself, empty where there was none.
    """

    results: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    made: Row = field(default_factory=dict)


def read(directory: Path) -> Found:
    """Read the cells of a benchmark and the `metrics.json` of runs below a folder.

    Raises DataError where there is no such folder or no result in it.
    """
    if not directory.is_dir():
        raise DataError(f"there is no folder {directory}; ode report takes one with results")
    found, known = Found(made=_study(directory)), _Known()
    for path, folder in _files(directory):
        try:
            row = load(path)
        except DataError as error:
            found.problems.append(str(error))
            continue
        place = path.parent.relative_to(directory)
        row.setdefault("cell", place.as_posix())
        if found.made and len(place.parts) == _DEEP:
            row["study_cell"] = place.parts[0]
        packed = {name: _dense(row.pop(name)) for name in _LONG if isinstance(row.get(name), list)}
        row = {sys.intern(name): known(value) for name, value in row.items()}
        found.results.append(Result(row, path.relative_to(directory), folder, packed))
    found.results.sort(key=lambda result: [_rank(result.get(name)) for name in _ORDER])
    if not found.results:
        raise DataError(
            f"{directory} holds no results"
            + "".join(f"; {problem}" for problem in found.problems[:1])
            + "; ode benchmark --out FOLDER and ode run TASK --out FOLDER make some"
        )
    return found


class _Known:
    """Texts and mappings that many rows have, each kept once."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._mappings: dict[str, Any] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._texts.setdefault(value, value)
        if isinstance(value, dict):
            return self._mappings.setdefault(json.dumps(value), value)
        return value


def _dense(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _study(directory: Path) -> Row:
    try:
        made: Row = json.loads((directory / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return made


def _files(directory: Path) -> Iterator[tuple[Path, Path]]:
    for path in (directory / CELLS).glob("**/*.json"):
        yield path, directory / ARTEFACTS / path.stem
    for path in directory.rglob(METRICS):
        # A cell's own folder repeats its row; one without a row was not finished.
        of_cell = path.parents[1].name == ARTEFACTS and (path.parents[2] / CELLS).is_dir()
        if not of_cell and path.relative_to(directory).parts[0] != CELLS:
            yield path, path.parent


def _rank(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


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
            for name, value in epoch.items():
                column = own.setdefault(name, [])
                if len(column) < length:
                    column.extend([None] * (length - len(column)))
                column.append(None if isinstance(value, list | dict) else value)
            length += 1
    columns: dict[str, list[Any]] = {}
    for name in _HISTORY:
        columns[name] = (
            own.pop(name, []) if name in _OF_EPOCHS else _repeated(name, results, counts)
        )
    columns |= {name: own.pop(name) for name in sorted(own)}
    for column in columns.values():
        column.extend([None] * (length - len(column)))
    kinds = {name: _HISTORY.get(name) or _kind(column) for name, column in columns.items()}
    return pd.DataFrame({name: _series(columns[name], kind) for name, kind in kinds.items()})


def _repeated(name: str, results: Sequence[Result], counts: Sequence[int]) -> list[Any]:
    pairs = zip(results, counts, strict=True)
    return [value for result, n in pairs for value in [result.row.get(name)] * n]


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


def scientific(value: float) -> str:
    """Return a power of ten as it is written by hand: 1e-3."""
    return f"{value:.0e}".replace("e-0", "e-")


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
