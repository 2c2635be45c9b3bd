"""Timing: everyone once in every round, so that a slow moment of the machine meets all alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A measurement shorter than this is lost in the clock; a call longer than that is made once.
_LEAST, _ONCE = 0.02, 12.0


class Clock:
    """The time of this process on all its cores where it has one thread, else that of the wall.

    The former does not count what other programs do; on a GPU the work in flight is waited for.
    """

    def __init__(self, device: str, threads: int) -> None:
        self._wait = torch.cuda.synchronize if device.startswith("cuda") else None
        alone = self._wait is None and threads == 1
        self._now = time.process_time if alone else time.perf_counter
        self.name = "CPU time" if alone else "wall time"

    def seconds(self, call: Callable[[], Any], repeats: int = 1) -> float:
        """Return the mean time of some calls in a row."""
        if self._wait is not None:
            self._wait()
        start = self._now()
        for _ in range(repeats):
            call()
        if self._wait is not None:
            self._wait()
        return (self._now() - start) / repeats


class Timed(NamedTuple):
    """One time a round, or that of a single call where it is long."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Clock) -> dict[str, Timed]:
    """Return the times of all calls, taken in turn; whoever begins a round ends the next.

    Each is called once before; what its very first call does besides has been done by then.
    """
    with _no_collector():
        warm = {name: clock.seconds(call) for name, call in calls.items()}
        repeats = {name: max(1, math.ceil(_LEAST / max(warm[name], 1e-7))) for name in calls}
        found: dict[str, list[float]] = {name: [] for name in calls}
        names = [name for name in calls if warm[name] <= _ONCE]
        for _ in range(rounds):
            for name in names:
                found[name].append(clock.seconds(calls[name], repeats[name]))
            names.reverse()
    return {name: Timed(tuple(found[name] or [warm[name]])) for name in calls}


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch that many threads for the body."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
