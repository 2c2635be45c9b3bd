"""Who is at which cell, so that of several sweeps on one store each cell is run by one alone.

A claim is a file `claims/<KEY>.json` that names its owners: the process that watches and the worker
that computes. On the owners' machine it holds as long as one of them lives; elsewhere as long as
the file is touched, which its sweep does every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from ode_tasks.benchmark.cell import Cell
    from ode_tasks.benchmark.store import Store

BEAT_SECONDS = 10.0
"""How often a sweep says that it is still there."""

SILENCE_SECONDS = 120.0
"""After so long without a word a claim from another machine holds no more."""

_LOCK = "lock"


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one of the same number by when it was started."""

    host: str
    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return who a running process of this machine is."""
        return cls(_host(), pid, _started(pid))

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == _host()

    @property
    def alive(self) -> bool:
        """Whether a process of this machine still runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is somebody else's
            return True
        return _started(self.pid) == self.started


class Claims:
    """The claims of one sweep, on one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = FileLock(store.claims / _LOCK)
        self._me = Owner.of(os.getpid())
        self._held: set[Path] = set()
        self._beaten = time.monotonic()

    def take(self, cell: Cell, worker: int) -> bool:
        """Claim a cell for a worker's process; False where it has an outcome or another owner.

        A claim whose owners are gone is taken over.
        """
        path = self._path(cell)
        owners = [asdict(self._me), asdict(Owner.of(worker))]
        with self._lock:
            # In this order: who finds the cell unclaimed finds what its last owner stored.
            if _holds(path) or self._store.has(cell):
                return False
            path.write_text(json.dumps({"cell": cell.label, "owners": owners}), encoding="utf-8")
        self._held.add(path)
        return True

    def taken(self, cell: Cell) -> bool:
        """Return whether somebody is at the cell."""
        return _holds(self._path(cell))

    def left(self, cell: Cell) -> bool:
        """Return whether there is a claim to the cell, whatever became of its owners."""
        return self._path(cell).exists()

    def release(self, cell: Cell) -> None:
        """Let go of a cell, whose outcome is stored or which was not finished."""
        path = self._path(cell)
        self._held.discard(path)
        path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Say to other machines that this sweep is still there; cheap to call often."""
        if time.monotonic() - self._beaten < BEAT_SECONDS:
            return
        self._beaten = time.monotonic()
        for path in self._held:
            with contextlib.suppress(OSError):
                os.utime(path)

    def close(self) -> None:
        """Let go of everything."""
        for path in self._held:
            path.unlink(missing_ok=True)
        self._held.clear()

    def _path(self, cell: Cell) -> Path:
        return self._store.claims / f"{cell.key}.json"


def _holds(path: Path) -> bool:
    try:
        claim = json.loads(path.read_text(encoding="utf-8"))
        owners = [Owner(**owner) for owner in claim["owners"]]
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError):  # half written when its owner was killed
        return _silence(path) < BEAT_SECONDS
    if all(owner.here for owner in owners):
        return any(owner.alive for owner in owners)
    return _silence(path) < SILENCE_SECONDS


def _silence(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of its file system."""
    now = path.with_name(f"now-{os.getpid()}")
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        now.unlink(missing_ok=True)


@cache
def _host() -> str:
    """Return a name of this machine that changes when it is started anew."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot}".strip()


def _started(pid: int) -> str:
    """Return when a process was started, in whatever unit the system has; empty if it is gone."""
    if sys.platform != "linux":
        return _started_by_ps(pid)
    try:
        fields: list[Any] = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else str(fields[19])


def _started_by_ps(pid: int) -> str:
    with os.popen(f"ps -o lstart= -p {int(pid)}") as found:
        return found.read().strip()
