"""`ode run`, and the options that it shares with `ode study`."""

from __future__ import annotations

from pathlib import Path
from signal import SIGINT
from typing import Annotated, Any

import typer

from ode_core.console import Output
from ode_core.errors import ArgumentError, OdeError
from ode_core.protocols import RunConfig
from ode_core.registry import models, tasks
from ode_tasks import devices
from ode_tasks.progress import shown
from ode_tasks.record import CHECKPOINT, LOG, require_tensorboard
from ode_tasks.run import METRICS, execute, plain
from ode_tasks.settings import listed, pairs
from ode_tasks.stopping import stoppable

_INTERRUPTED = 130
_DEFAULT_SOLVER, _DEFAULT_GRADIENT = "dopri5", "direct"

# What a table need not say: it is short, says only what went well, and `--json` has the rest.
_HIDDEN = ("status", "reason", "date", "machine", "threads", "higher_is_better", "out", "data")

# The options that both commands have.
Preset = Annotated[str, typer.Option(help="smoke, quick or full: how long to train on how much.")]
Data = Annotated[Path | None, typer.Option(help="The folder or file of your data.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE over the preset; may be repeated.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1; cuda under torchrun.")]
Seed = Annotated[int, typer.Option(help="Of the weights and the order of batches.")]

# Those of `ode run` alone.
Rtol = Annotated[float | None, typer.Option(help="Relative tolerance, adaptive solvers.")]
Atol = Annotated[float | None, typer.Option(help="Absolute tolerance, adaptive solvers.")]
Precision = Annotated[
    str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed; over the preset's.")
]
Out = Annotated[Path | None, typer.Option(help="Leave metrics, plots, log and checkpoint here.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Log for TensorBoard in --out as well.")
]
ShowSettings = Annotated[
    bool, typer.Option("--show-settings", help="Show what would be used, and run nothing.")
]


def run(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A name of `ode list tasks`.")],
    *,
    model: Annotated[str | None, typer.Option(help="Default: the task's own.")] = None,
    solver: Annotated[str | None, typer.Option(help="Default: dopri5.")] = None,
    gradient: Annotated[str | None, typer.Option(help="Default: direct.")] = None,
    rtol: Rtol = None,
    atol: Atol = None,
    dt: Annotated[float | None, typer.Option(help="Step, or an adaptive solver's first.")] = None,
    preset: Preset = "smoke",
    data: Data = None,
    set_: Set = None,
    device: Device = "cpu",
    seed: Seed = 0,
    precision: Precision = None,
    out: Out = None,
    resume: Resume = False,
    tensorboard: Tensorboard = False,
    show_settings: ShowSettings = False,
) -> None:
    """Train and score one model on one task."""
    output: Output = ctx.obj if devices.rank() == 0 else Output(quiet=True)
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
        settings=pairs(set_ or ()) | ({"precision": precision} if precision else {}),
        out=out,
        checkpoint=out is not None,
        resume=resume or (out is not None and devices.restarted()),
        tensorboard=tensorboard,
    )
    if show_settings:
        _show_settings(config, output)
        return
    _check_folder(config, output)
    row = _executed(config, output)
    if devices.rank() == 0:
        _print(row, output)
        if out is not None:
            output.note(f"written to {out}")


def _executed(config: RunConfig, output: Output) -> dict[str, Any]:
    try:
        with stoppable(), shown(output, config.task) as progress:
            return execute(config, progress)
    except KeyboardInterrupt as stopped:
        output.note(_unfinished(config, stopped))
        raise typer.Exit(getattr(stopped, "status", _INTERRUPTED)) from None
    except RuntimeError as error:
        if not devices.lost_another(error):
            raise
        raise OdeError(
            "another process of this run was lost; torchrun --max-restarts starts all of them "
            "again from the last checkpoint, and so does the same command with --resume"
        ) from error


def _check_folder(config: RunConfig, output: Output) -> None:
    for name in ("resume", "tensorboard"):
        if getattr(config, name) and config.out is None:
            raise ArgumentError(f"--{name} needs the folder of the run; pass --out DIR")
    if config.tensorboard:
        require_tensorboard()
    names = (CHECKPOINT, LOG, METRICS)
    if config.resume and not any((Path(config.out or "") / name).exists() for name in names):
        output.note(f"ode: no run is in {config.out} yet; it starts from the beginning")


def _unfinished(config: RunConfig, stopped: BaseException) -> str:
    """Return what became of a run that was asked to stop, and how to go on."""
    word = "interrupted" if getattr(stopped, "number", SIGINT) == SIGINT else "terminated"
    begun = f"ode: {word}; the run of {config.task} is not finished"
    if config.out is None:
        return f"{begun} and left no metrics; with --out DIR it could go on"
    if (config.out / CHECKPOINT).exists():
        return f"{begun}; the same command with --resume goes on from {config.out / CHECKPOINT}"
    return f"{begun} and left no checkpoint yet; the same command starts it again"


def _show_settings(config: RunConfig, output: Output) -> None:
    presets = getattr(tasks.create(config.task), "presets", None)
    if presets is None:
        raise ArgumentError(f"the task {config.task!r} does not say what its presets are")
    output.rows(listed(presets, config), ("setting", "value", "from", "meaning"))
    output.note(f"every preset with its comments: {presets.path}")


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
