"""The index of a store: its rows by columns, so that many thousands are read at once.

It is a copy and never the truth. It consists of segments `index/<name>.json`, each whole and never
changed, which remember of every file what it held and how it looked: its time of change and size.
A reader lists the files, takes what looks as it did from the segments, reads the others and adds
them as a segment of their own. Whoever removes the folder loses nothing but a little time.
"""

from __future__ import annotations

import contextlib
import gc
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


Look = tuple[int, int]
"""What a file looks like from outside: nanoseconds of its last change, and bytes."""


class Indexed(NamedTuple):
    """Rows of a store, without their lists, and a sentence on each file that is no row."""

    rows: list[Row]
    problems: list[str]


class Table:
    """All rows of a store by columns, of which some may be asked for."""

    def __init__(self, segments: Sequence[_Segment], problems: list[str]) -> None:
        self.names = dict.fromkeys(name for segment in segments for name in segment.names)
        self.problems = problems
        self._segments = segments

    def rows(self, fields: Iterable[str] | None = None) -> list[Row]:
        """Return the rows with all fields or some, and `path`, where the file of each lies."""
        wanted = None if fields is None else set(fields)
        with _without_collector():
            return [row for segment in self._segments for row in segment.rows(wanted)]


def read(cells: Path, folder: Path, load: Callable[[Path], Row]) -> Table:
    """Return what the files `cells/*/*.json` hold.

    `load` reads one file and raises DataError for one that is no row. Lists, such as the history of
    a training, are in the files alone.
    """
    with _without_collector():
        missing = dict(_looks(cells))
        segments = [s for name in _names(folder) if (s := _Segment.read(folder / name))]
        found = [segment.current(missing) for segment in segments]
        fresh, problems = _load(cells, sorted(missing), load)
        if fresh:
            found.append(_Segment.of(fresh, missing))
        _keep(folder, segments, found, fresh=len(fresh))
        return Table(found, problems)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    # A hundred thousand new rows are no garbage, and looking for some in them takes long.
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


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
                            look = (stat.st_mtime_ns, stat.st_size)
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
    live, stored = sum(len(s) for s in found), sum(len(s) for s in old)
    many = len(old) >= _MOST_SEGMENTS or stored > 2 * live + _WORTH_A_SEGMENT
    if fresh < _WORTH_A_SEGMENT and not (many and live):
        return
    segment = _Segment.merged(found) if many else found[-1]
    # A folder that takes no files, or is full, is read without an index.
    with contextlib.suppress(OSError, OdeError):
        name = segment.write(folder)
        for outdated in old if many else ():
            if outdated.name != name:
                (folder / outdated.name).unlink(missing_ok=True)


class _Segment:
    """Rows by columns, and the look of the file that each came from.

    On disk each column is a line, and is parsed when it is asked for.
    """

    def __init__(
        self, paths: list[str], looks: list[Look], columns: dict[str, Any], name: str = ""
    ) -> None:
        self.paths = paths
        self.looks = looks
        self.names = list(columns)
        self.name = name
        self._columns = columns
        self._places: list[int] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def of(cls, rows: dict[str, Row], looks: dict[str, Look]) -> _Segment:
        names = dict.fromkeys(name for row in rows.values() for name in row)
        columns = {name: [row.get(name) for row in rows.values()] for name in names}
        return cls(list(rows), [looks[path] for path in rows], columns)

    @classmethod
    def merged(cls, segments: Sequence[_Segment]) -> _Segment:
        names = dict.fromkeys(name for segment in segments for name in segment.names)
        return cls(
            [path for segment in segments for path in segment.paths],
            [look for segment in segments for look in segment.looks],
            {name: [v for segment in segments for v in segment.column(name)] for name in names},
        )

    @classmethod
    def read(cls, path: Path) -> _Segment | None:
        """Return what a file holds; None where it is no whole segment of this format."""
        try:
            content = path.read_bytes()
            if path.name != _name(content):
                return None
            head, *lines = content.split(b"\n")
            form, *names = json.loads(head)
            if form != FORMAT:
                return None
        except (OSError, ValueError):
            return None
        paths, changed, sizes = (json.loads(line) for line in lines[:3])
        looks = list(zip(changed, sizes, strict=True))
        return cls(paths, looks, dict(zip(names, lines[3:-1], strict=True)), path.name)

    def write(self, folder: Path) -> str:
        """Leave it in a file that is named by what it holds, and return the name."""
        changed, sizes = zip(*self.looks, strict=True)
        columns = [_packed(self.column(name)) for name in self.names]
        lines = [[FORMAT, *self.names], self.paths, changed, sizes, *columns]
        content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        files.replace(folder / _name(content), content)
        return _name(content)

    def current(self, missing: dict[str, Look]) -> _Segment:
        """Return the rows whose files look as they did, and take those off what is missing."""
        pairs = zip(self.paths, self.looks, strict=True)
        places = [i for i, (path, look) in enumerate(pairs) if missing.get(path) == look]
        for i in places:
            del missing[self.paths[i]]
        if len(places) == len(self.paths):
            return self
        part = _Segment([self.paths[i] for i in places], [self.looks[i] for i in places], {})
        part.names, part._columns, part._places = self.names, self._columns, places
        return part

    def column(self, name: str) -> list[Any]:
        """Return the values of a field, None where a row has none."""
        stored = self._columns.get(name)
        if stored is None:
            return [None] * len(self)
        values = _unpacked(json.loads(stored)) if isinstance(stored, bytes) else stored
        return values if self._places is None else [values[i] for i in self._places]

    def rows(self, wanted: set[str] | None) -> Iterator[Row]:
        """Yield the rows, with the wanted fields or all."""
        names = [name for name in self.names if wanted is None or name in wanted]
        head = (PATH, *names)
        for values in zip(self.paths, *(self.column(name) for name in names), strict=True):
            yield dict(zip(head, values, strict=True))


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16] + ".json"


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
