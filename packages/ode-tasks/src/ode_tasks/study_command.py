"""`ode study`: the study's experiments on one task, with a page of what they say."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ode_core.errors import ArgumentError
from ode_core.protocols import RunConfig
from ode_tasks import report
from ode_tasks.commands import Data, Device, Preset, Set
from ode_tasks.progress import shown
from ode_tasks.run import plain
from ode_tasks.settings import pairs
from ode_tasks.stopping import stoppable
from ode_tasks.study import chosen, configs, prepare, run_once

if TYPE_CHECKING:
    from ode_core.console import Output

_INTERRUPTED = 130
_COLUMNS = (
    "cell",
    "seed",
    "score_name",
    "score",
    "loss",
    "f_forward",
    "f_backward",
    "memory_bytes",
    "seconds",
    "status",
    "reason",
)


def study(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="cifar10, digits, glucose, linear or spiral.")],
    *,
    out: Annotated[Path, typer.Option(help="A folder for the runs, and the page.")],
    preset: Preset = "quick",
    seeds: Annotated[int, typer.Option(help="Runs of each cell; nothing is claimed from one.")] = 3,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Cells to run, as in 'rk4*'; may be repeated. Default: all."),
    ] = None,
    data: Data = None,
    set_: Set = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
) -> None:
    """Run the study's experiments on one task and report; goes on where it was stopped."""
    output: Output = ctx.obj
    if seeds < 1:
        raise ArgumentError(f"--seeds is {seeds}; a study has at least one seed")
    base = RunConfig(
        task,
        "",
        "",
        "",
        preset=preset,
        seed=seed,
        device=device,
        data=data,
        settings=pairs(set_ or ()),
    )
    cells = chosen(task, preset, only or ())
    prepare(base, out, seeds)
    rows: list[dict[str, Any]] = []
    try:
        with stoppable():
            for config in (c for cell in cells for c in configs(cell, base, out, seeds)):
                row = _run(config, output)
                rows += [row] if row is not None else []
    except KeyboardInterrupt as stopped:
        output.note(f"ode: interrupted; what was run is kept in {out}, the same command goes on")
        raise typer.Exit(getattr(stopped, "status", _INTERRUPTED)) from None
    output.rows(rows, _COLUMNS)
    report.write(out, output)


def _run(config: RunConfig, output: Output) -> dict[str, Any] | None:
    """Make a run unless it is there; return its row, and say what came of it."""
    assert config.out is not None
    cell = config.out.parent.name
    row = run_once(config, progress=functools.partial(shown, output))
    kept = f"kept, {config.out} holds a finished run"
    output.note(f"{cell}, seed {config.seed}: {kept if row is None else _outcome(row)}")
    return None if row is None else {"cell": cell, **plain(row)}


def _outcome(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    return f"{row['score_name']} {row['score']:.4g} in {row['seconds']:.0f} s"
