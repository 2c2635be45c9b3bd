"""The progress bar of one run: on a terminal, and nowhere else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import progress as rich_progress

from ode_tasks.run import Silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ode_core.console import Output
    from ode_core.protocols import Progress


class Bar:
    """Progress as one rich bar, begun anew by each stretch of work."""

    def __init__(self, bars: rich_progress.Progress, prefix: str) -> None:
        self._bars = bars
        self._prefix = prefix
        self._task = bars.add_task(prefix, total=None)

    def start(self, total: int, text: str) -> None:
        """Begin a stretch of `total` equal pieces of work."""
        self._bars.reset(self._task, total=total, description=self._text(text))

    def advance(self, text: str = "") -> None:
        """One piece is done."""
        if text:
            self._bars.update(self._task, description=self._text(text))
        self._bars.advance(self._task)

    def _text(self, text: str) -> str:
        return f"{self._prefix}: {text}"


@contextmanager
def shown(output: Output, prefix: str) -> Iterator[Progress]:
    """Show a bar on stderr while the body runs; none when quiet or off a terminal."""
    console = output.console(stderr=True)
    if output.quiet or not console.is_terminal:
        yield Silent()
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console, transient=True) as bars:
        yield Bar(bars, prefix)
