"""What a cell may use, and what a process uses."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ode_core.errors import ArgumentError

try:
    import resource
except ImportError:  # it is a part of Unix
    _CONFINES = False
else:
    _CONFINES = sys.platform == "linux"

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1024**3


@dataclass(frozen=True)
class Limits:
    """What one cell may use beside what its worker used before: seconds, and bytes (0: any)."""

    seconds: float
    memory: int = 0

    def __post_init__(self) -> None:
        """Raise ArgumentError for a limit that lets nothing run."""
        if not self.seconds > 0 or self.memory < 0:
            raise ArgumentError(
                f"seconds is {self.seconds} and memory is {self.memory / GIB:g} GiB; seconds is "
                "above 0, memory at least 0 (0: no limit)"
            )


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process has now, 0 where the system does not say."""
    return _status(pid, "VmRSS:")


def peak(pid: int | str = "self") -> int:
    """Return the most bytes that it had since `forget_peak`, 0 where the system does not say."""
    return _status(pid, "VmHWM:")


def forget_peak() -> None:
    """Have this process's peak begin at what it has now, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@contextlib.contextmanager
def confined(memory: int) -> Iterator[None]:
    """Have allocations in the body fail where they take more than so many bytes together.

    It holds on Linux, 0 means no limit; elsewhere only the watcher looks.
    """
    if not (memory and _CONFINES):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _status("self", "VmData:") + memory
    resource.setrlimit(
        resource.RLIMIT_DATA,
        (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _status(pid: int | str, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    _, found, rest = text.partition(name)
    return int(rest.split(maxsplit=1)[0]) * 1024 if found else 0
