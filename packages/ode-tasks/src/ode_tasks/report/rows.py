"""Stored rows read back."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ode_core.errors import DataError
from ode_tasks.benchmark.cell import OK
from ode_tasks.benchmark.store import ARTEFACTS, CELLS, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ode_tasks.benchmark.cell import Row

METRICS = "metrics.json"
STUDY = "study.json"
_LONG = ("history", "work_precision")
_DEEP = 2  # a study's runs lie in CELL/seed-N

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
    with _uncollected():
        for path, folder in _files(directory):
            try:
                row = load(path)
            except DataError as error:
                found.problems.append(str(error))
                continue
            source = path.relative_to(directory)
            row.setdefault("cell", source.parent.as_posix())
            if found.made and len(source.parts) == _DEEP + 1:
                row["study_cell"] = source.parts[0]
            packed = {n: _dense(row.pop(n)) for n in _LONG if isinstance(row.get(n), list)}
            row = {sys.intern(name): known(value) for name, value in row.items()}
            found.results.append(Result(row, source, folder, packed))
    found.results.sort(key=lambda result: [_rank(result.get(name)) for name in _ORDER])
    if not found.results:
        raise DataError(
            f"{directory} holds no results"
            + "".join(f"; {problem}" for problem in found.problems[:1])
            + "; ode benchmark --out FOLDER and ode run TASK --out FOLDER make some"
        )
    return found


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Spare the collector the search for circles among rows, which have none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


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
    """Yield the files of rows and the folders of what lies beside each."""
    for root, _, names in os.walk(directory / CELLS):
        for name in names:
            if name.endswith(".json"):
                yield Path(root, name), directory / ARTEFACTS / name.removesuffix(".json")
    for root, folders, names in os.walk(directory):
        if METRICS in names:
            yield Path(root, METRICS), Path(root)
        if CELLS in folders:
            # A cell's own folder repeats its row; one without a row was not finished.
            folders[:] = [name for name in folders if name not in (CELLS, ARTEFACTS)]


def _rank(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


def scientific(value: float) -> str:
    """Return a power of ten as it is written by hand: 1e-3."""
    return f"{value:.0e}".replace("e-0", "e-")
