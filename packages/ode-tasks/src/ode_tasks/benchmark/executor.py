"""How cells come to be run: the protocol of an executor, and worker processes on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Protocol

from ode_core.errors import ArgumentError
from ode_tasks.benchmark.limits import GIB, Limits
from ode_tasks.benchmark.serving import WORK
from ode_tasks.benchmark.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ode_core.records import ExecutorRecord
    from ode_tasks.benchmark.cell import Cell, Row
    from ode_tasks.benchmark.store import Store


class Executor(Protocol):
    """Runs cells somewhere; the store is what it and everybody else agree on.

    An executor is made by `ode_core.executors.create(name, workers=..., seconds=..., memory=...)`
    and the options of its own that the user gave: how many cells may run at once (0: as many as
    suit the place), how long one of them may take, and how many GiB it may use (0: no limit).
    """

    def run(self, cells: Sequence[Cell], store: Store) -> Generator[Row, None, None]:
        """Run every cell and yield its row once that lies in the store, in any order.

        A cell that fails, however it does, is a row with its reason and does not touch the others.
        A cell that another sweep is at is waited for, or run once that is gone. Closing the
        generator stops what still runs. Raises OdeError where cells cannot be run at all, or their
        results cannot be stored.
        """


class LocalExecutor:
    """Warm worker processes on this machine, one for each core unless told otherwise.

    Each worker has a pipe of its own and nothing in common with the others, so that one that dies,
    at any moment and in any way, takes nothing with it but the cell that it was running.
    """

    work: ClassVar[ExecutorRecord] = WORK

    def __init__(self, workers: int = 0, seconds: float = 8.0, memory: float = 0.0) -> None:
        if workers < 0:
            raise ArgumentError(
                f"workers is {workers}; it is a whole number from 1 (0: one for each core)"
            )
        self.workers = workers or cores()
        self.limits = Limits(seconds, int(memory * GIB))
        self.lost = 0
        """How many workers were lost and replaced in the last run."""

    def run(self, cells: Sequence[Cell], store: Store) -> Generator[Row, None, None]:
        """Run the cells as `Executor` says, each within hard limits.

        A cell's clock starts when a worker that has finished its imports is given the cell. The
        workers end with the thread that iterates.
        """
        sweep = Sweep(cells, store, self.limits, self.workers, self.work)
        try:
            yield from sweep.rows()
        finally:
            self.lost = sweep.lost
            sweep.close()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
