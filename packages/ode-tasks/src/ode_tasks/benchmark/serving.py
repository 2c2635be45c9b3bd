"""A worker's side of its pipe: it runs what it is given until the watcher is gone."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from ode_core.errors import OdeError
from ode_core.records import ExecutorRecord
from ode_core.registry import load_target
from ode_tasks.benchmark.store import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from ode_tasks.benchmark.limits import Limits
    from ode_tasks.benchmark.store import Store

WORK = ExecutorRecord("work", "ode_tasks.benchmark.worker:Work", "runs cells", package="ode-tasks")
"""What runs cells: made once in each worker, and imported there alone, so that the process that
plans and watches never imports torch."""

WHERE = getattr(signal, "SIGUSR1", 0)
"""The signal that asks a worker where it is; Windows has none to spare."""

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Check:
    """Asked in place of a cell: is a small calculation possible here, in a time to be expected?"""


@dataclass(frozen=True)
class Duty:
    """What a worker is there for: what runs its cells, the parts they need, limits and a log."""

    work: ExecutorRecord
    store: Store
    parts: Sequence[tuple[str, str]]
    limits: Limits
    log: Path


def serve(requests: Connection, duty: Duty) -> None:
    """Run cells until the watcher is gone; the first answer says that the imports are done.

    An answer is an empty text, or the reason why no cell can be run.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # these are for the watcher
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a process that dies does not flush
    _redirect(duty.log)
    faulthandler.enable()
    if WHERE:
        faulthandler.register(WHERE, all_threads=False)
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        work = load_target(duty.work)(duty.parts, duty.limits)
    except OdeError as error:
        requests.send(str(error))
        return
    requests.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = requests.recv()
            if isinstance(request, Check):
                requests.send(work.check())
                continue
            with _captured(duty.store.artefacts(request) / OUTPUT, duty.log):
                work.run(request, duty.store)
            requests.send("")


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
        if os.getppid() != parent.pid:  # it was gone before the kernel was asked
            os._exit(1)
