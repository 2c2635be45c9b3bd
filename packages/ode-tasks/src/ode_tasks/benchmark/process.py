"""One worker process: started apart, asked over a pipe of its own, ended whatever it does."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import faulthandler
import io
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from multiprocessing import connection
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ode_core.errors import OdeError
from ode_core.records import ExecutorRecord
from ode_core.registry import load_target
from ode_tasks.benchmark.cell import CRASHED, TIMEOUT
from ode_tasks.benchmark.store import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from ode_tasks.benchmark.cell import Cell
    from ode_tasks.benchmark.store import Store

START_SECONDS = 120.0
"""How long a worker may take to import what it needs; no cell's clock runs meanwhile."""

# Imported in the worker alone, so that the process that plans and watches never imports torch.
_WORK = ExecutorRecord("work", "ode_tasks.benchmark.worker:Work", "runs cells", package="ode-tasks")

# The signal that asks a worker where it is; Windows has none to spare.
_WHERE = getattr(signal, "SIGUSR1", 0)
_WHERE_SECONDS = 0.2

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


class State(enum.Enum):
    """What became of a worker since it was last looked at."""

    UNCHANGED = enum.auto()
    READY = enum.auto()
    DONE = enum.auto()
    LOST = enum.auto()


class WorkerProcess:
    """The watcher's side of a worker: one cell at a time, a deadline for each answer."""

    def __init__(self, store: Store, parts: Sequence[tuple[str, str]]) -> None:
        # Spawned, not forked: a fork would share locks, threads and CUDA with this process.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.started = False
        self.cell: Cell | None = None
        self.spent = 0.0
        self.loss = (CRASHED, "the worker stored no result")
        self._store = store
        self._log = store.temporary / f"worker-{uuid4().hex[:12]}.txt"
        self._words = self._log
        self._process = context.Process(target=serve, args=(theirs, store, self._log, parts))
        self._process.start()
        theirs.close()  # only the worker holds it now, so its end is the pipe's end
        self._set_clock(START_SECONDS)

    @property
    def idle(self) -> bool:
        """Whether a cell may be given."""
        return self.started and self.cell is None

    def give(self, cell: Cell, seconds: float) -> None:
        """Hand over a cell; its clock starts now."""
        self._store.clear(cell)
        self.cell = cell
        self._words = self._store.artefacts(cell) / OUTPUT
        self._set_clock(seconds)
        with contextlib.suppress(OSError):  # a worker that died idle: look() finds out
            self.connection.send(cell)

    def look(self) -> tuple[State, Cell | None]:
        """Return what happened, with the cell that this ended; a worker out of time is killed."""
        alive = self._process.is_alive()  # asked first: an answer may come just before the end
        self.spent = time.monotonic() - self._since
        if self.connection.poll():
            with contextlib.suppress(EOFError, OSError):
                return self._heard(self.connection.recv())
            alive = False
        if alive and self.spent <= self._limit:
            return State.UNCHANGED, None
        self.loss = self._end(late=alive)
        return State.LOST, self._released()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._log.unlink(missing_ok=True)

    def _heard(self, complaint: str) -> tuple[State, Cell | None]:
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

    def _end(self, *, late: bool) -> tuple[str, str]:
        """Return the status and the reason of a worker that is lost."""
        if late:
            self._ask_where()
        self._process.kill()
        self._process.join()
        words = last_words(self._words)
        if late:
            return TIMEOUT, f"no result within {self._limit:g} s" + (words and f"; {words}")
        code = self._process.exitcode or 0
        if code >= 0:
            how = f"ended itself with exit status {code}"
        else:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (short of memory, perhaps)" if -code == signal.SIGKILL else ""
        return CRASHED, f"the worker process {how}" + (words and f"; {words}")

    def _ask_where(self) -> None:
        """Have a worker that is out of time write down where it is.

        By a signal, whose handler runs in the thread that is interrupted: a watchdog thread would
        walk a stack that goes on changing, and now and then crash.
        """
        pid = self._process.pid
        if pid is None or not _WHERE:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _WHERE)
        self._process.join(_WHERE_SECONDS)


def serve(requests: Connection, store: Store, log: Path, parts: Sequence[tuple[str, str]]) -> None:
    """Run cells until the watcher is gone; the first answer says that the imports are done.

    An answer is an empty text, or for the first one the reason why no cell can be run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the watcher
    _end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a process that dies does not flush
    _redirect(log)
    faulthandler.enable()
    if _WHERE:
        faulthandler.register(_WHERE, all_threads=False)
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        work = load_target(_WORK)(parts)
    except OdeError as error:
        requests.send(str(error))
        return
    requests.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            cell = requests.recv()
            with _captured(store.artefacts(cell) / OUTPUT, log):
                work.run(cell, store)
            requests.send("")


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


@contextlib.contextmanager
def _captured(path: Path, log: Path) -> Iterator[None]:
    """Collect what a cell prints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _redirect(path)
    try:
        yield
    finally:
        _redirect(log)
        with contextlib.suppress(OSError):
            if not path.stat().st_size:
                path.unlink()
                path.parent.rmdir()  # refused where the cell left something


def _redirect(path: Path) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):  # output of C libraries and of a dying interpreter as well
        os.dup2(handle, descriptor)
    os.close(handle)


def _end_with_parent() -> None:
    """End this process once its parent is gone, even if that was killed."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        # A loop in C may never let that thread run; the kernel needs no thread.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
