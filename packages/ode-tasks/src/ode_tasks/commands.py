"""`ode run` and `ode study`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from ode_core.console import Output
from ode_core.protocols import RunConfig
from ode_core.registry import models, tasks
from ode_tasks import report
from ode_tasks.progress import shown
from ode_tasks.run import execute, plain
from ode_tasks.settings import pairs
from ode_tasks.study import cells, run_cell

_INTERRUPTED = 130
_DEFAULT_SOLVER, _DEFAULT_GRADIENT = "dopri5", "direct"

# What a table need not say: it is short, says only what went well, and `--json` has the rest.
_HIDDEN = ("status", "reason", "date", "machine", "threads", "higher_is_better", "out", "data")

_STUDY_COLUMNS = (
    "cell",
    "score_name",
    "score",
    "loss",
    "f_forward",
    "f_backward",
    "memory_bytes",
    "memory_bytes_direct",
    "seconds",
    "status",
    "reason",
)

# The options that both commands have.
Preset = Annotated[str, typer.Option(help="smoke, quick or full: how long to train on how much.")]
Data = Annotated[Path | None, typer.Option(help="The folder or file of your data.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE over the preset; may be repeated.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Seed = Annotated[int, typer.Option(help="Of the weights and the order of batches.")]


def run(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A name of `ode list tasks`.")],
    *,
    model: Annotated[str | None, typer.Option(help="Default: the task's own.")] = None,
    solver: Annotated[str | None, typer.Option(help="Default: dopri5.")] = None,
    gradient: Annotated[str | None, typer.Option(help="Default: direct.")] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative tolerance, adaptive solvers.")
    ] = None,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance, adaptive solvers.")
    ] = None,
    dt: Annotated[float | None, typer.Option(help="Step, or an adaptive solver's first.")] = None,
    preset: Preset = "smoke",
    data: Data = None,
    set_: Set = None,
    device: Device = "cpu",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Leave metrics.json and plots here.")] = None,
) -> None:
    """Train and score one model on one task."""
    output: Output = ctx.obj
    model = model or tasks[task].default_model
    solves = models[model].solves
    config = RunConfig(
        task=task,
        model=model,
        solver=solver or (_DEFAULT_SOLVER if solves else ""),
        gradient=gradient or (_DEFAULT_GRADIENT if solves else ""),
        rtol=rtol,
        atol=atol,
        dt=dt,
        preset=preset,
        seed=seed,
        device=device,
        data=data,
        settings=pairs(set_ or ()),
        out=out,
    )
    try:
        with shown(output, task) as progress:
            row = execute(config, progress)
    except KeyboardInterrupt:
        output.note(f"ode: interrupted; the run of {task} is not finished and left no metrics")
        raise typer.Exit(_INTERRUPTED) from None
    _print(row, output)
    if out is not None:
        output.note(f"written to {out}")


def _print(row: dict[str, Any], output: Output) -> None:
    if output.json:
        output.rows([plain(row)], ())
        return
    output.rows(
        (
            {"metric": name, "value": value}
            for name, value in row.items()
            if name not in _HIDDEN
            and value not in (None, "")
            and not isinstance(value, dict | list)
        ),
        ("metric", "value"),
    )


def study(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="cifar10, digits, glucose, linear or spiral.")],
    *,
    out: Annotated[Path, typer.Option(help="One folder for each run, and the report.")],
    preset: Preset = "quick",
    data: Data = None,
    set_: Set = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Run the study's experiments on one task and report; goes on where it was stopped."""
    output: Output = ctx.obj
    settings = pairs(set_ or ())
    base = RunConfig(
        task, "", "", "", preset=preset, seed=seed, device=device, data=data, settings=settings
    )
    rows: list[dict[str, Any]] = []
    try:
        for cell in cells(task):
            row = run_cell(cell, base, out, progress=functools.partial(shown, output))
            if row is None:
                output.note(f"{cell.name}: kept, {out / cell.name} holds a finished run")
            else:
                rows.append({"cell": cell.name, **plain(row)})
                output.note(f"{cell.name}: {_outcome(row)}")
    except KeyboardInterrupt:
        output.note(f"ode: interrupted; finished runs are kept in {out}, the same command goes on")
        raise typer.Exit(_INTERRUPTED) from None
    output.rows(rows, _STUDY_COLUMNS)
    report.write(out, output)


def _outcome(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    return f"{row['score_name']} {row['score']:.4g} in {row['seconds']:.0f} s"
