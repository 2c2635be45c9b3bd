"""How cells come to be run: the protocol of an executor, and worker processes on this machine."""

from __future__ import annotations

import os
from collections import deque
from datetime import UTC, datetime
from multiprocessing import connection
from typing import TYPE_CHECKING, Protocol

from ode_core.errors import ArgumentError, OdeError
from ode_tasks.benchmark.process import State, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ode_tasks.benchmark.cell import Cell, Row
    from ode_tasks.benchmark.store import Store

START_ATTEMPTS = 3
"""After so many workers in a row that never became ready it is the machine, not the cells."""

_LOOK_SECONDS = 0.25


class Executor(Protocol):
    """Runs cells somewhere; the store is what it and everybody else agree on.

    An executor is made by `ode_core.executors.create(name, workers=..., seconds=...)`: how many
    cells may run at once (0: as many as suit the place) and how long one of them may take.
    """

    def run(self, cells: Sequence[Cell], store: Store) -> Generator[Row, None, None]:
        """Run every cell and yield its row once that lies in the store, in any order.

        A cell that fails, however it does, is a row with its reason and does not touch the others.
        Closing the generator stops what still runs. Raises OdeError where cells cannot be run at
        all, or their results cannot be stored.
        """


class StartError(OdeError):
    """Workers that cannot be started, whatever they were to run."""


class LocalExecutor:
    """Warm worker processes on this machine, one for each core unless told otherwise.

    Each worker has a pipe of its own and nothing in common with the others, so that one that dies,
    at any moment and in any way, takes nothing with it but the cell that it was running.
    """

    def __init__(self, workers: int = 0, seconds: float = 8.0) -> None:
        if workers < 0 or not seconds > 0:
            raise ArgumentError(
                f"workers is {workers} and seconds is {seconds}; workers is a whole number from 1 "
                "(0: one for each core) and seconds is above 0"
            )
        self.workers = workers or cores()
        self.seconds = seconds

    def run(self, cells: Sequence[Cell], store: Store) -> Generator[Row, None, None]:
        """Run the cells as `Executor` says, each with a hard limit of `seconds`.

        A cell's clock starts when a worker that has finished its imports is given the cell. The
        workers end with the thread that iterates.
        """
        todo = deque(cells)
        parts = sorted({part for cell in cells for part in cell.parts})
        crew: list[WorkerProcess] = []
        false_starts = 0
        try:
            while todo or any(worker.cell for worker in crew):
                busy = sum(worker.cell is not None for worker in crew)
                while len(crew) < min(self.workers, busy + len(todo)):
                    crew.append(WorkerProcess(store, parts))
                for worker in crew:
                    if worker.idle and todo:
                        worker.give(todo.popleft(), self.seconds)
                connection.wait([worker.connection for worker in crew], _LOOK_SECONDS)
                for worker in tuple(crew):
                    state, cell = worker.look()
                    if state is State.READY:
                        false_starts = 0
                    if state is State.LOST:
                        crew.remove(worker)
                        if not worker.started:
                            false_starts += 1
                            _give_up(worker, false_starts)
                        worker.close()
                    if cell is not None:
                        yield _outcome(worker, cell, store)
        finally:
            for worker in crew:
                worker.close()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _outcome(worker: WorkerProcess, cell: Cell, store: Store) -> Row:
    # A worker stores what it finished; one that was lost may have managed that just before.
    row = store.read(cell)
    if row is None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        row = cell.row(*worker.loss, seconds=worker.spent, date=date)
        row = store.write(cell, row)
    return row


def _give_up(worker: WorkerProcess, false_starts: int) -> None:
    if false_starts >= START_ATTEMPTS:
        _, reason = worker.loss
        raise StartError(
            f"no cell can be run here: {false_starts} worker processes in a row did not start "
            f"({reason}); see that `ode doctor` works, then run again"
        )
