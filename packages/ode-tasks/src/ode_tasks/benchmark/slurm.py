"""Cells as jobs of a SLURM cluster: submitit submits them, the store alone says what they did."""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import submitit
from submitit.helpers import DelayedSubmission

from ode_core.errors import ArgumentError, DataError, OdeError
from ode_tasks.benchmark.cell import CRASHED
from ode_tasks.benchmark.claims import Claims
from ode_tasks.benchmark.estimate import FIELDS, Times
from ode_tasks.benchmark.executor import LocalExecutor
from ode_tasks.benchmark.limits import GIB, Limits
from ode_tasks.benchmark.process import last_words
from ode_tasks.benchmark.store import Store

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from ode_tasks.benchmark.cell import Cell, Row

JOBS = "jobs"

_LOOK_SECONDS = 1.0
_BATCH_SECONDS, _MOST_CELLS = 900.0, 200
_START_MINUTES = 5
# A job that ends early this often without having been at a cell cannot run here.
_FALSE_STARTS = 3


class Batch:
    """Several cells as one job: a sweep of its own, on the node where it happens to be.

    What is stored already is passed over, so that it may be begun again at any time: submitit does
    that after a preemption, and where the time of a job is up.
    """

    def __init__(self, root: Path, cells: Sequence[Cell], limits: Limits, workers: int) -> None:
        self.root = root
        self.cells = tuple(cells)
        self.limits = limits
        self.workers = workers

    def __call__(self) -> int:
        """Run what is missing and return how many cells have an outcome."""
        store = Store(self.root)
        store.prepare()
        memory = self.limits.memory / GIB
        executor = LocalExecutor(self.workers, self.limits.seconds, memory)
        return sum(1 for _ in executor.run(self.cells, store))

    def checkpoint(self) -> DelayedSubmission:
        """Return what is to be run after a requeue."""
        return DelayedSubmission(self)


class SubmititExecutor:
    """Jobs of several cells each, as an array of a SLURM cluster.

    `workers` is how many jobs may run at once (0: as many as the cluster lets), `cells` how many
    one of them has (0: about a quarter of an hour of them, by stored times), `cpus` how many cells
    a job runs at once, `gpus` how many GPUs it has, `minutes` its time (0: what its cells may take
    at most). A job that is preempted, or whose time is up, is put into the queue again.
    """

    def __init__(
        self,
        workers: int = 0,
        seconds: float = 8.0,
        memory: float = 0.0,
        partition: str = "",
        account: str = "",
        cells: int = 0,
        cpus: int = 1,
        gpus: int = 0,
        minutes: int = 0,
    ) -> None:
        whole = {"workers": workers, "cells": cells, "gpus": gpus, "minutes": minutes}
        negative = [name for name, value in whole.items() if value < 0]
        if negative or cpus < 1:
            raise ArgumentError(
                f"{' and '.join(negative) or 'cpus'} is too small; cpus is a whole number from 1, "
                f"{', '.join(whole)} from 0"
            )
        self.workers = workers
        self.limits = Limits(seconds, int(memory * GIB))
        self.cells = cells
        self.cpus = cpus
        self._resources = {
            "cpus_per_task": cpus,
            "slurm_partition": partition or None,
            "slurm_account": account or None,
            "slurm_gpus_per_node": gpus or None,
            "mem_gb": math.ceil(memory * cpus + 2 * cpus) if memory else None,
            "slurm_array_parallelism": workers or None,
        }
        self._minutes = minutes

    def run(self, cells: Sequence[Cell], store: Store) -> Generator[Row, None, None]:
        """Run the cells as `Executor` says, in jobs that outlive this process if that is killed.

        A job that ends before its cells are done is submitted again; a cell that two of its jobs
        were at when they ended is lost. Raises OdeError where jobs cannot be submitted, or end
        without having been at any cell.
        """
        run = _Run(self, store)
        try:
            run.submit(list(self._batches(cells, store)))
            yield from run.rows()
        finally:
            run.cancel()

    def jobs(self, store: Store, cells: int) -> submitit.AutoExecutor:
        """Return what submits jobs of so many cells."""
        minutes = math.ceil(cells / self.cpus * self.limits.seconds / 60) + _START_MINUTES
        executor = submitit.AutoExecutor(folder=store.root / JOBS, cluster="slurm")
        given = {name: value for name, value in self._resources.items() if value is not None}
        executor.update_parameters(
            name="ode-benchmark",
            timeout_min=self._minutes or minutes,
            stderr_to_stdout=True,
            **given,
        )
        return executor

    def _batches(self, cells: Sequence[Cell], store: Store) -> Iterator[Sequence[Cell]]:
        size = self.cells or self._size(cells, store)
        for first in range(0, len(cells), size):
            yield cells[first : first + size]

    def _size(self, cells: Sequence[Cell], store: Store) -> int:
        times = Times(store.table(FIELDS).rows)
        known = [seconds for cell in cells if (seconds := times.seconds(cell)[0]) is not None]
        each = statistics.mean(known) if known else self.limits.seconds
        return max(1, min(_MOST_CELLS, int(_BATCH_SECONDS * self.cpus / max(each, 0.1))))


class _Submitted:
    """A job and the cells of it that have no outcome yet."""

    def __init__(self, job: Any, cells: Sequence[Cell]) -> None:
        self.job = job
        self.cells = list(cells)

    @property
    def last_words(self) -> str:
        return last_words(self.job.paths.stdout)


class _Run:
    """The jobs of one call, and what has become of their cells."""

    def __init__(self, executor: SubmititExecutor, store: Store) -> None:
        self._executor = executor
        self._store = store
        self._claims = Claims(store)
        self._jobs: list[_Submitted] = []
        self._suspects: set[Cell] = set()
        self._false_starts = 0

    def submit(self, batches: Sequence[Sequence[Cell]]) -> None:
        """Submit a job for each batch, as one array; raises OdeError where SLURM takes none."""
        if not batches:
            return
        how, root = self._executor, self._store.root.resolve()
        executor = how.jobs(self._store, max(len(cells) for cells in batches))
        try:
            with executor.batch():
                jobs = [executor.submit(Batch(root, c, how.limits, how.cpus)) for c in batches]
        except (submitit.core.utils.FailedJobError, OSError, RuntimeError) as error:
            raise OdeError(
                f"SLURM did not take {len(batches)} jobs ({_line(error)}); see that `sbatch` works "
                "here, and what --executor-set gives"
            ) from error
        self._jobs += [_Submitted(job, cells) for job, cells in zip(jobs, batches, strict=True)]

    def rows(self) -> Iterator[Row]:
        """Yield the row of every cell once it is stored."""
        while self._jobs:
            active = _active()
            for submitted in tuple(self._jobs):
                ended = active is not None and submitted.job.job_id not in active
                # In this order: what a job stored before it ended is there once it has ended.
                yield from self._stored(submitted)
                if not submitted.cells:
                    self._jobs.remove(submitted)
                elif ended:
                    self._jobs.remove(submitted)
                    yield from self._after(submitted)
            time.sleep(_LOOK_SECONDS)

    def cancel(self) -> None:
        """End the jobs that are not done."""
        for submitted in self._jobs:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                submitted.job.cancel()

    def _stored(self, submitted: _Submitted) -> Iterator[Row]:
        left = []
        for cell in submitted.cells:
            row = self._store.read(cell)
            if row is None:
                left.append(cell)
            else:
                yield row
        submitted.cells = left

    def _after(self, submitted: _Submitted) -> Iterator[Row]:
        """Submit again what a job has left, without the cells that have cost two jobs."""
        at = {cell for cell in submitted.cells if self._claims.left(cell)}
        self._false_starts = 0 if at else self._false_starts + 1
        if self._false_starts >= _FALSE_STARTS:
            raise OdeError(
                f"{self._false_starts} jobs in a row ended without having been at a cell, the last "
                f"of them {submitted.job.job_id} ({submitted.last_words or 'it printed nothing'}); "
                f"what they printed is in {self._store.root / JOBS}"
            )
        lost = at & self._suspects
        self._suspects |= at
        for cell in lost:
            yield self._lose(cell, submitted)
        left = [cell for cell in submitted.cells if cell not in lost]
        self.submit([left] if left else [])

    def _lose(self, cell: Cell, submitted: _Submitted) -> Row:
        words = submitted.last_words
        reason = f"two jobs ended while they were at it, the last one {submitted.job.job_id}"
        row = cell.row(
            CRASHED,
            reason + (words and f"; {words}"),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            return self._store.write(cell, row)
        except DataError:
            stored = self._store.read(cell)
            if stored is None:
                raise
            return stored


def _active() -> set[str] | None:
    """Return the jobs of this user that wait or run; None where SLURM does not say."""
    words = ("squeue", "--me", "--noheader", "--array", "--format=%i")
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(done.stdout.split())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
