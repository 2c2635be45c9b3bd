"""One sweep over cells with workers of this machine, beside whoever else is at the same store."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from multiprocessing import connection
from typing import TYPE_CHECKING

from ode_core.errors import OdeError
from ode_tasks.benchmark.claims import Claims
from ode_tasks.benchmark.conditions import conditions
from ode_tasks.benchmark.guard import Guard, MachineError
from ode_tasks.benchmark.process import State, WorkerProcess
from ode_tasks.benchmark.serving import WORK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ode_core.records import ExecutorRecord
    from ode_tasks.benchmark.cell import Cell, Row
    from ode_tasks.benchmark.limits import Limits
    from ode_tasks.benchmark.store import Store

START_ATTEMPTS = 3
"""After so many workers in a row that never became ready it is the machine, not the cells."""

_LOOK_SECONDS = 0.25
_ELSEWHERE_SECONDS = 0.5


class StartError(OdeError):
    """Workers that cannot be started, whatever they were to run."""


class Sweep:
    """The cells still to run, those that another sweep is at, and the workers."""

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        limits: Limits,
        workers: int,
        work: ExecutorRecord = WORK,
    ) -> None:
        self.lost = 0
        self._store = store
        self._limits = limits
        self._work = work
        self._workers = workers
        self._todo = deque(cells)
        self._elsewhere: list[Cell] = []
        self._asked_elsewhere = 0.0
        self._parts = sorted({part for cell in cells for part in cell.parts})
        self._crew: list[WorkerProcess] = []
        self._claims = Claims(store)
        self._guard = Guard()
        self._false_starts = 0

    def rows(self) -> Iterator[Row]:
        """Yield the row of every cell once it is stored; raises what `Executor.run` does."""
        try:
            while self._todo or self._elsewhere or self._busy:
                self._hire()
                self._give()
                self._wait()
                for worker in tuple(self._crew):
                    yield from self._look(worker)
                yield from self._from_elsewhere()
        except MachineError:
            for cell in self._guard.streak:
                self._store.forget(cell)
            raise

    def close(self) -> None:
        """End the workers and let go of what they were at."""
        for worker in self._crew:
            worker.close()
        self._crew.clear()
        self._claims.close()

    @property
    def _busy(self) -> int:
        return sum(worker.cell is not None for worker in self._crew)

    def _hire(self) -> None:
        while len(self._crew) < min(self._workers, self._busy + len(self._todo)):
            self._crew.append(WorkerProcess(self._store, self._parts, self._limits, self._work))

    def _give(self) -> None:
        if self._guard.doubtful:
            idle = [worker for worker in self._crew if worker.idle]
            if idle and not any(worker.checking for worker in self._crew):
                idle[0].check()
            return
        for worker in self._crew:
            while worker.idle and self._todo:
                cell = self._todo.popleft()
                if self._claims.take(cell, worker.pid):
                    worker.give(cell)
                else:
                    self._elsewhere.append(cell)

    def _wait(self) -> None:
        self._claims.beat()
        if self._crew:
            connection.wait([worker.connection for worker in self._crew], _LOOK_SECONDS)
        else:
            time.sleep(_LOOK_SECONDS)

    def _look(self, worker: WorkerProcess) -> Iterator[Row]:
        checking = worker.checking
        state, cell = worker.look()
        if state is State.READY:
            self._false_starts = 0
        if state is State.CHECKED:
            self._guard.checked()
        if state is State.LOST:
            self._crew.remove(worker)
            worker.close()
            if checking:
                self._guard.checked(worker.loss[1])
            if not worker.started:
                self._false_starts += 1
                _give_up(worker, self._false_starts)
            self.lost += 1
        if cell is not None:
            row = self._outcome(worker, cell)
            self._claims.release(cell)
            self._guard.saw(cell, row["status"])
            yield row

    def _outcome(self, worker: WorkerProcess, cell: Cell) -> Row:
        # A worker stores what it finished; one that was lost may have managed that just before.
        row = self._store.read(cell)
        if row is None:
            date = datetime.now(UTC).isoformat(timespec="seconds")
            status, reason = worker.loss
            row = cell.row(status, reason, seconds=worker.spent, date=date, **conditions())
            row = self._store.write(cell, row)
        return row

    def _from_elsewhere(self) -> Iterator[Row]:
        """Yield what other sweeps have stored, and take back what they have left."""
        if time.monotonic() - self._asked_elsewhere < _ELSEWHERE_SECONDS:
            return
        self._asked_elsewhere = time.monotonic()
        waiting, self._elsewhere = self._elsewhere, []
        for cell in waiting:
            taken = self._claims.taken(cell)  # asked first: it is stored before it is let go of
            row = self._store.read(cell)
            if row is not None:
                yield row
            elif taken:
                self._elsewhere.append(cell)
            else:
                self._todo.append(cell)


def _give_up(worker: WorkerProcess, false_starts: int) -> None:
    if false_starts >= START_ATTEMPTS:
        _, reason = worker.loss
        raise StartError(
            f"no cell can be run here: {false_starts} worker processes in a row did not start "
            f"({reason}); see that `ode doctor` works, then run again"
        )
