"""Whether it is the cells that fail or the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.errors import OdeError
from ode_tasks.benchmark.cell import CRASHED, OOM, TIMEOUT

if TYPE_CHECKING:
    from ode_tasks.benchmark.cell import Cell

SUSPICIOUS = 8
"""After so many cells in a row that cost their workers, a worker is asked for a calculation that
is known to be possible."""

HOPELESS = 40
"""After so many, and not one before them that did not, the sweep ends whatever that says."""

_LOST = (TIMEOUT, OOM, CRASHED)


class MachineError(OdeError):
    """A machine on which cells fail that are not to blame for it."""


class Guard:
    """Sees how cells end; asks for a check where that looks like the machine's fault."""

    def __init__(self) -> None:
        self.doubtful = False
        self.streak: list[Cell] = []
        """The cells in a row that cost their workers, up to now."""
        self._sound = False

    def saw(self, cell: Cell, status: str) -> None:
        """Take note of how a cell ended; raises MachineError where nothing ever succeeds."""
        if status not in _LOST:
            self.streak.clear()
            self.doubtful, self._sound = False, True
            return
        self.streak.append(cell)
        if len(self.streak) >= HOPELESS and not self._sound:
            raise MachineError(
                f"stopped: each of the {len(self.streak)} cells so far cost its worker, by time, "
                "memory or a crash, and not one has ended; their rows are taken back, see what one "
                "of them does with `ode run`, or give more with --seconds or --memory"
            )
        self.doubtful = len(self.streak) % SUSPICIOUS == 0

    def checked(self, complaint: str = "") -> None:
        """Take note of what a check gave; raises MachineError where it failed."""
        if complaint:
            raise MachineError(
                f"stopped: after {len(self.streak)} lost cells in a row a small calculation did "
                f"not go well either ({complaint}), so it is the machine and not the cells; their "
                "rows are taken back, and the same command runs them again once it is well"
            )
        self.doubtful = False
