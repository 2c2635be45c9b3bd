"""One worker process: started apart, asked over a pipe of its own, ended whatever it does."""

from __future__ import annotations

import contextlib
import enum
import multiprocessing
import os
import re
import signal
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from ode_tasks.benchmark.cell import CRASHED, OOM, TIMEOUT
from ode_tasks.benchmark.limits import GIB, resident
from ode_tasks.benchmark.serving import WHERE, WORK, Check, Duty, serve
from ode_tasks.benchmark.store import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ode_core.records import ExecutorRecord
    from ode_tasks.benchmark.cell import Cell
    from ode_tasks.benchmark.limits import Limits
    from ode_tasks.benchmark.store import Store

START_SECONDS = 120.0
"""How long a worker may take to import what it needs; no cell's clock runs meanwhile."""

CHECK_SECONDS = 20.0
"""How long the small calculation of a check may take."""

_WHERE_SECONDS = 0.2
_GLANCE_SECONDS = 0.01
# Between the end of a dying process's pipe and its own.
_ENDING_SECONDS = 1.0
# Whoever kills a whole job or session comes to its watcher right after its workers.
_KILLED_TOO_SECONDS = 0.5


class State(enum.Enum):
    """What became of a worker since it was last looked at."""

    UNCHANGED = enum.auto()
    READY = enum.auto()
    DONE = enum.auto()
    CHECKED = enum.auto()
    LOST = enum.auto()


class WorkerProcess:
    """The watcher's side of a worker: one cell at a time, a deadline for each answer."""

    def __init__(
        self,
        store: Store,
        parts: Sequence[tuple[str, str]],
        limits: Limits,
        work: ExecutorRecord = WORK,
    ) -> None:
        # Spawned, not forked: a fork would share locks, threads and CUDA with this process.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.started = False
        self.checking = False
        self.cell: Cell | None = None
        self.spent = 0.0
        self.loss = (CRASHED, "the worker stored no result")
        self._store = store
        self._limits = limits
        self._log = store.temporary / f"worker-{uuid4().hex[:12]}.txt"
        self._words = self._log
        self._before = 0
        duty = Duty(work, store, parts, limits, self._log)
        self._process = context.Process(target=serve, args=(theirs, duty))
        self._process.start()
        theirs.close()  # only the worker holds it now, so its end is the pipe's end
        self._set_clock(START_SECONDS)

    @property
    def idle(self) -> bool:
        """Whether a cell may be given."""
        return self.started and self.cell is None and not self.checking

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None  # it was started when this was made
        return self._process.pid

    def give(self, cell: Cell) -> None:
        """Hand over a cell; its clock starts now."""
        self._store.clear(cell)
        self.cell = cell
        self._words = self._store.artefacts(cell) / OUTPUT
        self._before = resident(self.pid)
        self._ask(cell, self._limits.seconds)

    def check(self) -> None:
        """Ask for a small calculation."""
        self.checking = True
        self._words = self._log
        self._ask(Check(), CHECK_SECONDS)

    def look(self) -> tuple[State, Cell | None]:
        """Return what happened, with the cell that this ended.

        A worker out of time or with more memory than it may have is killed.
        """
        alive = self._process.is_alive()  # asked first: an answer may come just before the end
        self.spent = time.monotonic() - self._since
        if self.connection.poll():
            with contextlib.suppress(EOFError, OSError):
                return self._heard(self.connection.recv())
            alive = False
        if alive and self.spent <= self._limit and not self._too_large():
            return State.UNCHANGED, None
        self.loss = self._end(late=alive)
        return State.LOST, self._released()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._log.unlink(missing_ok=True)

    def _ask(self, request: Cell | Check, seconds: float) -> None:
        self._set_clock(seconds)
        with contextlib.suppress(OSError):  # a worker that died idle: look() finds out
            self.connection.send(request)

    def _heard(self, complaint: str) -> tuple[State, Cell | None]:
        if self.checking:
            self.checking = False
            self._set_clock(float("inf"))
            self.loss = (CRASHED, complaint)
            return State.LOST if complaint else State.CHECKED, None
        if self.started:
            return State.DONE, self._released()
        if complaint:
            self.loss = (CRASHED, complaint)
            return State.LOST, None
        self.started = True
        self._set_clock(float("inf"))
        return State.READY, None

    def _released(self) -> Cell | None:
        cell, self.cell = self.cell, None
        self._limit = float("inf")
        return cell

    def _set_clock(self, seconds: float) -> None:
        self._since, self._limit = time.monotonic(), seconds

    def _too_large(self) -> bool:
        if self.cell is None or not self._limits.memory:
            return False
        return resident(self.pid) - self._before > self._limits.memory

    def _end(self, *, late: bool) -> tuple[str, str]:
        """Return the status and the reason of a worker that is lost."""
        large = late and self._too_large()
        if late and not large:
            self._ask_where()
        elif not late:
            self._ends_within(_ENDING_SECONDS)
        deaf = not late and self._process.is_alive()
        self._process.kill()
        self._process.join()
        words = last_words(self._words)
        if large:
            return OOM, f"more than {self._limits.memory / GIB:.3g} GiB" + (words and f"; {words}")
        if late:
            return TIMEOUT, f"no result within {self._limit:g} s" + (words and f"; {words}")
        if deaf:
            how = "the worker process closed its connection and went on"
            return CRASHED, how + (words and f"; {words}")
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            time.sleep(_KILLED_TOO_SECONDS)
        if code >= 0:
            how = f"ended itself with exit status {code}"
        else:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (short of memory, perhaps)" if -code == signal.SIGKILL else ""
        return CRASHED, f"the worker process {how}" + (words and f"; {words}")

    def _ends_within(self, seconds: float) -> None:
        # A join with a limit waits without one where the process has closed its descriptors.
        end = time.monotonic() + seconds
        while self._process.is_alive() and time.monotonic() < end:
            time.sleep(_GLANCE_SECONDS)

    def _ask_where(self) -> None:
        """Have a worker that is out of time write down where it is.

        By a signal, whose handler runs in the thread that is interrupted: a watchdog thread would
        walk a stack that goes on changing, and now and then crash.
        """
        if not WHERE:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, WHERE)
        self._ends_within(_WHERE_SECONDS)


def last_words(path: Path) -> str:
    """Return where a process was when its stack was dumped, else its last line of output."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[-20_000:]
    except OSError:
        return ""
    _, dumped, stack = text.rpartition("(most recent call first):")
    frame = re.search(r'File "(.+)", line (\d+) in (.+)', stack) if dumped else None
    if frame:
        file, line, function = frame.groups()
        return f"it was in {function} ({os.path.basename(file)}, line {line})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"its last words: {lines[-1][:200]}" if lines else ""
