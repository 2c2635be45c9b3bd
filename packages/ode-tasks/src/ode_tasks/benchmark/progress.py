"""What a user sees while a benchmark runs: a bar on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from ode_tasks.benchmark.cell import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ode_core.console import Output
    from ode_tasks.benchmark.cell import Row


@contextmanager
def showing(output: Output, total: int) -> Iterator[Callable[[Row], None]]:
    """Yield a function to call with the row of every cell that has ended."""
    console = output.console(stderr=True)
    if output.quiet or not console.is_terminal:
        yield _lines(output, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        Remaining(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting workers", total=total)

        def advance(row: Row) -> None:
            progress.update(bar, advance=1, description=label(row))
            if row["status"] != OK:
                progress.console.print(sentence(row))

        yield advance


def label(row: Row) -> str:
    """Return the words by which a person knows the cell of a row."""
    parts = [row.get(field) for field in ("task", "model", "solver", "gradient", "at")]
    name = " × ".join(part for part in parts if part)
    return name + (f", seed {row['seed']}" if row.get("seed") else "")


def sentence(row: Row) -> str:
    """Return one line on how a cell ended."""
    if row["status"] != OK:
        return f"{label(row)}: {row['status']}, {row['reason']}"
    score = row.get("score")
    scored = f", {row.get('score_name', 'score')} {score:.4g}" if score is not None else ""
    return f"{label(row)}: ok{scored}, {row['seconds']:.1f} s"


def _lines(output: Output, total: int) -> Callable[[Row], None]:
    done = 0

    def advance(row: Row) -> None:
        nonlocal done
        done += 1
        output.note(f"[{done}/{total}] {sentence(row)}")

    return advance
