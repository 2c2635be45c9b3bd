"""`ode gradients`: every gradient method through every solver, held against `direct`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ode_core import registry
from ode_core.errors import ArgumentError
from ode_core.protocols import RunConfig
from ode_tasks.benchmark.cell import OK
from ode_tasks.gradients.compare import compare
from ode_tasks.gradients.plot import PICTURE, draw
from ode_tasks.progress import shown
from ode_tasks.settings import pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ode_core.console import Output
    from ode_tasks.gradients.compare import Row

_INTERRUPTED = 130

COLUMNS = (
    "solver",
    "gradient",
    "error",
    "cosine",
    "seconds",
    "f_forward",
    "f_backward",
    "memory_bytes",
    "status",
    "reason",
)


def gradients(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A name of `ode list tasks`.")],
    *,
    model: Annotated[str | None, typer.Option(help="Default: the task's own.")] = None,
    solvers: Annotated[
        str, typer.Option(help="Names, separated by commas; all if not given.")
    ] = "",
    gradients: Annotated[str, typer.Option(help="Names of gradient methods; likewise.")] = "",
    preset: Annotated[str, typer.Option(help="smoke, quick or full.")] = "smoke",
    data: Annotated[Path | None, typer.Option(help="The folder or file of your data.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the preset, such as dt=1; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Leave a plot of the errors here.")] = None,
) -> None:
    """Compare every gradient method through every solver with the exact gradient."""
    output: Output = ctx.obj
    config = RunConfig(
        task=task,
        model=model or registry.tasks[task].default_model,
        solver="",
        gradient="",
        preset=preset,
        seed=seed,
        device=device,
        data=data,
        settings=pairs(set_ or ()),
    )
    chosen = _names(registry.solvers, solvers), _names(registry.gradients, gradients)
    if out is not None and out.exists() and not out.is_dir():
        raise ArgumentError(f"--out takes a folder, and {out} is a file; choose another")
    rows: list[Row] = []
    try:
        with shown(output, "gradients") as progress:
            for row in compare(config, *chosen, progress):
                rows.append(row)
    except KeyboardInterrupt:
        output.note("ode: interrupted; the table has what was finished")
        output.rows(rows, COLUMNS)
        raise typer.Exit(_INTERRUPTED) from None
    output.rows(rows, COLUMNS)
    if out is not None:
        title = f"{task}, {config.model}, preset {preset}: one batch, untrained"
        drawn = draw(out / PICTURE, rows, title)
        output.note(f"written to {out / PICTURE}" if drawn else "there is no error to plot")
    if not any(row["status"] == OK for row in rows):
        raise typer.Exit(1)


def _names(catalogue: Mapping[str, object], text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        _ = catalogue[name]
    return list(dict.fromkeys(names)) or list(catalogue)
