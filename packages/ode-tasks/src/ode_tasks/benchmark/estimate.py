"""How long cells will take, from the times of cells that are stored."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_tasks.benchmark.cell import PLANNED_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ode_tasks.benchmark.cell import Cell, Row

START_SECONDS = 4.0
"""About what a worker takes to start, on a machine of today."""

# From what says most of a cell's time to what says least.
_ALIKE = (
    ("task", "model", "solver", "gradient", "preset", "device", "at"),
    ("task", "model", "solver", "gradient", "preset", "device"),
    ("task", "solver", "preset"),
    ("task", "preset"),
)
FIELDS = ("status", "seconds", *_ALIKE[0])


class Estimate(NamedTuple):
    """Seconds of all cells together that something is known of, and how many are of which kind."""

    seconds: float
    known: int
    guessed: int
    unknown: int

    def sentence(self, workers: int, limit: float) -> str:
        """Return what to expect of so many workers, each cell within a limit of seconds."""
        if not self.known + self.guessed:
            return (
                f"nothing is stored to estimate from; at most {spoken(self.unknown * limit)} of "
                f"cells' own time, on {workers} workers"
            )
        wall = self.seconds / workers + START_SECONDS
        return (
            f"about {spoken(wall)} on {workers} workers ({spoken(self.seconds)} of cells' own "
            f"time): {self.known} cells by their own kind's stored times, {self.guessed} by others "
            f"of their task"
            + (f", and {self.unknown} cells of which nothing is known" if self.unknown else "")
        )


class Times:
    """The stored times of cells, to estimate others by."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        for row in rows:
            seconds = row.get("seconds")
            if row["status"] in PLANNED_STATUSES or not isinstance(seconds, int | float):
                continue
            for names in _ALIKE:
                self._found[names, *(row.get(name) for name in names)].append(seconds)

    def seconds(self, cell: Cell) -> tuple[float | None, bool]:
        """Return the median of the stored times most like a cell's, and whether by its own kind."""
        for place, names in enumerate(_ALIKE):
            found = self._found.get((names, *(getattr(cell, name) for name in names)))
            if found:
                return statistics.median(found), place < 2
        return None, False

    def estimate(self, cells: Sequence[Cell]) -> Estimate:
        """Return what is known of the time of cells."""
        found = [self.seconds(cell) for cell in cells]
        return Estimate(
            sum(seconds for seconds, _ in found if seconds is not None),
            sum(own for _, own in found),
            sum(seconds is not None and not own for seconds, own in found),
            sum(seconds is None for seconds, _ in found),
        )


def spoken(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
