"""The index of a store: its rows by columns, so that many thousands are read at once.

It is a copy and never the truth. It consists of segments `index/<name>.json`, each whole and never
changed, which remember of every file what it held and how it looked: its time of change and size.
A reader lists the files, takes what looks as it did from the segments, reads the others and adds
them as a segment of their own. Whoever removes the folder loses nothing but a little time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_core.errors import DataError, OdeError
from ode_tasks import files
from ode_tasks.benchmark.cell import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

FORMAT = 1
PATH = "path"

_MOST_SEGMENTS = 8
# A column with few different values is kept as those and a number for each row.
_FEW = 0.5
# Fewer rows than this are read again sooner than a segment of them is worth a file.
_WORTH_A_SEGMENT = 50


class Look(NamedTuple):
    """What a file looks like from outside: nanoseconds of its last change, and bytes."""

    changed: int
    size: int


class Indexed(NamedTuple):
    """All rows of a store, without their lists, and a sentence on each file that is no row."""

    rows: list[Row]
    problems: list[str]


def read(
    cells: Path, folder: Path, load: Callable[[Path], Row], fields: Iterable[str] | None = None
) -> Indexed:
    """Return the rows of the files `cells/*/*.json`, each with `path` below `cells`.

    `load` reads one file and raises DataError for one that is no row. Lists, such as the history of
    a training, are in the files alone. Of `fields`, if given, only those columns are returned.
    """
    looks = dict(_looks(cells))
    segments = [segment for name in _names(folder) if (segment := _Segment.read(folder / name))]
    found: list[_Segment] = []
    missing = dict(looks)
    for segment in segments:
        current = [i for i, (path, look) in enumerate(segment.files) if missing.get(path) == look]
        for i in current:
            del missing[segment.files[i][0]]
        found.append(segment.only(current))
    fresh, problems = _load(cells, sorted(missing), load)
    if fresh:
        found.append(_Segment.of(fresh, missing))
    _keep(folder, segments, found, fresh=len(fresh))
    wanted = None if fields is None else set(fields) | {PATH}
    return Indexed([row for segment in found for row in segment.rows(wanted)], problems)


def _looks(cells: Path) -> Iterator[tuple[str, Look]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(cells) as folders:
        for folder in folders:
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json"):
                        # A file may be replaced or removed at any time.
                        with contextlib.suppress(FileNotFoundError):
                            stat = entry.stat()
                            look = Look(stat.st_mtime_ns, stat.st_size)
                            yield f"{folder.name}/{entry.name}", look


def _load(
    cells: Path, paths: Sequence[str], load: Callable[[Path], Row]
) -> tuple[dict[str, Row], list[str]]:
    rows, problems = {}, []
    for path in paths:
        try:
            row = load(cells / path)
        except DataError as error:
            if (cells / path).exists():
                problems.append(str(error))
            continue
        rows[path] = {name: value for name, value in row.items() if not isinstance(value, list)}
    return rows, problems


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except OSError:
        return []


def _keep(folder: Path, old: Sequence[_Segment], found: Sequence[_Segment], *, fresh: int) -> None:
    """Write what was read anew as a segment; make one of all where they are many or mostly old."""
    live, stored = sum(len(s.files) for s in found), sum(len(s.files) for s in old)
    many = len(old) >= _MOST_SEGMENTS or stored > 2 * live + _WORTH_A_SEGMENT
    if fresh < _WORTH_A_SEGMENT and not (many and live):
        return
    segment = _Segment.merged(found) if many else found[-1]
    # A folder that takes no files, or is full, is read without an index.
    with contextlib.suppress(OSError, OdeError):
        segment.write(folder)
        for outdated in old if many else ():
            if outdated.name != segment.name:
                (folder / outdated.name).unlink(missing_ok=True)


class _Segment:
    """Rows by columns, and the look of the file that each came from."""

    def __init__(
        self, paths: list[tuple[str, Look]], columns: dict[str, list[Any]], name: str = ""
    ) -> None:
        self.files = paths
        self.columns = columns
        self.name = name

    @classmethod
    def of(cls, rows: dict[str, Row], looks: dict[str, Look]) -> _Segment:
        names = dict.fromkeys(name for row in rows.values() for name in row)
        columns = {name: [row.get(name) for row in rows.values()] for name in names}
        return cls([(path, looks[path]) for path in rows], columns)

    @classmethod
    def merged(cls, segments: Sequence[_Segment]) -> _Segment:
        names = dict.fromkeys(name for segment in segments for name in segment.columns)
        columns = {
            name: [
                value
                for segment in segments
                for value in segment.columns.get(name) or [None] * len(segment.files)
            ]
            for name in names
        }
        return cls([file for segment in segments for file in segment.files], columns)

    @classmethod
    def read(cls, path: Path) -> _Segment | None:
        """Return what a file holds; None where it is no segment of this format."""
        try:
            stored = json.loads(path.read_bytes())
            if stored["format"] != FORMAT:
                return None
            paths = [
                (name, Look(changed, size))
                for name, changed, size in zip(*stored["files"], strict=True)
            ]
            columns = {name: _unpacked(column) for name, column in stored["columns"].items()}
            if any(len(column) != len(paths) for column in columns.values()):
                return None
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None
        return cls(paths, columns, path.name)

    def write(self, folder: Path) -> None:
        """Leave it in a file that is named by what it holds."""
        by_kind = [
            [path for path, _ in self.files],
            [look.changed for _, look in self.files],
            [look.size for _, look in self.files],
        ]
        packed = {name: _packed(column) for name, column in self.columns.items()}
        stored = {"format": FORMAT, "files": by_kind, "columns": packed}
        content = json.dumps(stored, separators=(",", ":")).encode()
        self.name = hashlib.sha256(content).hexdigest()[:16] + ".json"
        files.replace(folder / self.name, content)

    def only(self, places: Sequence[int]) -> _Segment:
        """Return the rows at some places."""
        if len(places) == len(self.files):
            return self
        columns = {name: [c[i] for i in places] for name, c in self.columns.items()}
        return _Segment([self.files[i] for i in places], columns)

    def rows(self, wanted: set[str] | None) -> Iterator[Row]:
        """Yield each row with the fields that it has."""
        names = [name for name in self.columns if wanted is None or name in wanted]
        paths = [path for path, _ in self.files]
        for values in zip(paths, *(self.columns[name] for name in names), strict=True):
            yield dict(zip((PATH, *names), values, strict=True))


def _packed(column: list[Any]) -> Any:
    """Return a column as different values and numbers of them, where that is shorter."""
    if not any(isinstance(value, str | dict) for value in column):
        return column
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(json.dumps(value), len(numbers)) for value in column]
    if len(numbers) > _FEW * len(column):
        return column
    return {"values": [json.loads(text) for text in numbers], "codes": codes}


def _unpacked(column: Any) -> list[Any]:
    if isinstance(column, list):
        return column
    values = column["values"]
    return [values[code] for code in column["codes"]]
