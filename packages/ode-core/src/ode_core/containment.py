"""What a guest may not change while it is imported: put back as it was, and named."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

HEAVY = ("torch", "jax", "tensorflow", "pandas", "matplotlib")
"""Packages whose import takes so long that listing may not wait for them."""

PutBack = Callable[[], str]
"""Puts a part of the process's state back and returns what had changed, or an empty text."""


@dataclass
class Conduct:
    """How a guest behaved.

    `printed` is the first line that it printed, `heavy` a slow package that it imported, `changed`
    what it changed of the process, `interrupted` whether Ctrl-C was pressed meanwhile.
    """

    printed: str = ""
    heavy: str = ""
    changed: tuple[str, ...] = ()
    interrupted: bool = False


class Attempt:
    """Runs a guest's code and keeps what it raises, whatever that is."""

    error: BaseException | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.error = error
        return True


@contextlib.contextmanager
def contained() -> Iterator[Conduct]:
    """Run a guest's code: what it prints goes to stderr, what it changes is put back."""
    conduct = Conduct()
    absent = [name for name in HEAVY if name not in sys.modules]
    stdout, echo = sys.stdout, _Echo(conduct)
    with _noting_ctrl_c(conduct):
        put_back = [watch() for watch in _WATCHES]
        sys.stdout = echo
        try:
            yield conduct
        finally:
            replaced = "sys.stdout" if sys.stdout is not echo else ""
            sys.stdout = stdout
            found = [replaced, *(back() for back in put_back)]
            conduct.changed = tuple(text for text in found if text)
            conduct.heavy = next((name for name in absent if name in sys.modules), "")


class _Echo:
    """Standard output as a guest sees it: standard error, with a note of the first line."""

    def __init__(self, conduct: Conduct) -> None:
        self._conduct = conduct

    def write(self, text: str) -> int:
        if not self._conduct.printed:
            self._conduct.printed = text.strip().partition("\n")[0]
        sys.stderr.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextlib.contextmanager
def _noting_ctrl_c(conduct: Conduct) -> Iterator[None]:
    """Tell Ctrl-C from a KeyboardInterrupt that the guest raises of its own accord."""
    previous = signal.getsignal(signal.SIGINT)
    if not _in_main_thread() or not callable(previous):
        yield
        return

    def noted(number: int, frame: Any) -> Any:
        conduct.interrupted = True
        return previous(number, frame)

    signal.signal(signal.SIGINT, noted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _search_path() -> PutBack:
    path, entries = sys.path, list(sys.path)

    def back() -> str:
        if sys.path is path and path == entries:
            return ""
        path[:] = entries
        sys.path = path
        return "sys.path"

    return back


def _folder() -> PutBack:
    before = _current_folder()

    def back() -> str:
        if not before or _current_folder() == before:
            return ""
        with contextlib.suppress(OSError):
            os.chdir(before)
        return "the working folder"

    return back


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def _environment() -> PutBack:
    before = dict(os.environ)

    def back() -> str:
        after = dict(os.environ)
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        for key in changed:
            if key in before:
                os.environ[key] = before[key]
            else:
                del os.environ[key]
        return f"the environment ({', '.join(changed)})" if changed else ""

    return back


def _filters() -> PutBack:
    saved: Any = warnings.catch_warnings()
    saved.__enter__()
    before = list(warnings.filters)

    def back() -> str:
        after = list(warnings.filters)
        # Libraries mute a message of theirs when they are imported; that is nobody's loss.
        narrow = [f for f in after if f not in before and not _sweeping(f)]
        saved.__exit__(None, None, None)
        for filter_ in reversed(narrow):
            cast("list[Any]", warnings.filters).insert(0, filter_)
        return "" if [f for f in after if f not in narrow] == before else "the warning filters"

    return back


def _sweeping(filter_: Any) -> bool:
    _, message, category, module, _ = filter_
    named = message is not None or module is not None
    return not named and category.__module__ in ("builtins", "ode_core.errors")


def _signals() -> PutBack:
    if not _in_main_thread():  # where handlers cannot be changed
        return str
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def back() -> str:
        changed = [n for n, handler in before.items() if signal.getsignal(n) is not handler]
        for number in changed:
            if before[number] is not None:
                signal.signal(number, before[number])
        names = ", ".join(getattr(number, "name", str(number)) for number in changed)
        return f"the signal handlers ({names})" if changed else ""

    return back


def _streams() -> PutBack:
    before = (sys.stderr, sys.excepthook)

    def back() -> str:
        after = (sys.stderr, sys.excepthook)
        sys.stderr, sys.excepthook = before
        names = ("sys.stderr", "sys.excepthook")
        return ", ".join(n for n, a, b in zip(names, before, after, strict=True) if a is not b)

    return back


def _torch_settings() -> PutBack:
    before = _torch_state(sys.modules.get("torch"))

    def back() -> str:
        torch: Any = sys.modules.get("torch")
        after = _torch_state(torch)
        if torch is None or after is None:
            return ""
        # A torch that the guest imported itself had these when it came.
        dtype, device, grad = before or (torch.float32, "cpu", True)
        changed = []
        if after[0] != dtype:
            torch.set_default_dtype(dtype)
            changed.append("the default dtype")
        if after[1] != device:
            torch.set_default_device(None if device == "cpu" else device)
            changed.append("the default device")
        if after[2] != grad:
            torch.set_grad_enabled(grad)
            changed.append("gradient mode")
        return ", ".join(changed)

    return back


def _torch_state(torch: Any) -> tuple[Any, str, bool] | None:
    if not hasattr(torch, "get_default_device"):  # absent, or its import failed half-way
        return None
    return torch.get_default_dtype(), str(torch.get_default_device()), torch.is_grad_enabled()


def _random_states() -> PutBack:
    before = _drawn()

    def back() -> str:
        after = _drawn()
        changed = [name for name, (state, _) in before.items() if after[name][0] != state]
        for name in changed:
            before[name][1]()
        return f"the random state of {', '.join(changed)}" if changed else ""

    return back


def _drawn() -> dict[str, tuple[Any, Callable[[], Any]]]:
    python = random.getstate()
    states: dict[str, tuple[Any, Callable[[], Any]]] = {
        "Python": (python, lambda: random.setstate(python))
    }
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "get_rng_state"):
        seeds = torch.get_rng_state()
        states["torch"] = (seeds.numpy().tobytes(), lambda: torch.set_rng_state(seeds))
    numpy: Any = sys.modules.get("numpy.random")
    if hasattr(numpy, "set_state"):
        state = numpy.get_state(legacy=True)
        states["NumPy"] = ((state[1].tobytes(), *state[2:]), lambda: numpy.set_state(state))
    return states


_WATCHES: tuple[Callable[[], PutBack], ...] = (
    _search_path, _folder, _environment, _filters, _signals, _streams, _torch_settings,
    _random_states,
)  # fmt: skip
