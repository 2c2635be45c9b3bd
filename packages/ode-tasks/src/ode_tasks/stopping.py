"""Signals that ask a run to stop: at once, or, while it trains, when it has saved."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run that a signal has stopped; `saved` says whether it can go on from there."""

    def __init__(self, number: int = signal.SIGINT, *, saved: bool = False) -> None:
        super().__init__()
        self.number = number
        self.saved = saved

    @property
    def status(self) -> int:
        """The exit status by which shells and schedulers know the signal: 130 or 143."""
        return 128 + self.number


class Asked:
    """Which signal has asked the run to stop; 0 while none has."""

    number: int = 0


def _at_once(number: int, _: Any) -> None:
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, like Ctrl-C, end the body with `Stopped`."""
    with _handled(_at_once):
        yield


@contextmanager
def deferred() -> Iterator[Asked]:
    """Note the first signal, so that the body can save and then stop; a second ends at once."""
    asked = Asked()

    def note(number: int, frame: Any) -> None:
        if asked.number:
            _at_once(number, frame)
        asked.number = number

    with _handled(note):
        yield asked


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals go to that one alone
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
