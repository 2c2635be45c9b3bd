"""`ode benchmark`: plans the matrix, runs what is missing, shows and reports what there is."""

from __future__ import annotations

import contextlib
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ode_core import registry
from ode_core.errors import ArgumentError, UnknownNameError
from ode_core.records import CommandRecord
from ode_core.registry import load_target
from ode_tasks.benchmark.cell import IDENTITY, LOST_STATUSES, OK, PLANNED_STATUSES
from ode_tasks.benchmark.plan import Planned, Selection, plan
from ode_tasks.benchmark.progress import showing
from ode_tasks.benchmark.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.console import Output
    from ode_tasks.benchmark.cell import Row
    from ode_tasks.benchmark.executor import Executor

_REPORT = CommandRecord("report", "ode_tasks.report:write", "writes tables and plots")

SECONDS = {"smoke": 8.0, "quick": 1800.0, "full": 86_400.0}
"""The hard limit of a cell."""


class Preset(StrEnum):
    """How much is run."""

    smoke = "smoke"
    quick = "quick"
    full = "full"


class Rerun(StrEnum):
    """Which outcomes are thrown away and made anew."""

    none = "none"
    failed = "failed"
    all = "all"


def benchmark(
    ctx: typer.Context,
    *,
    preset: Annotated[Preset, typer.Option(help="How much to run.")] = Preset.smoke,
    tasks: Annotated[str, typer.Option(help="Names, separated by commas; all if not given.")] = "",
    models: Annotated[str, typer.Option(help="Names; each task's default model.")] = "",
    solvers: Annotated[str, typer.Option(help="Names; all if not given.")] = "",
    gradients: Annotated[str, typer.Option(help="Names of gradient methods.")] = "direct",
    data: Annotated[list[str] | None, typer.Option(help="TASK=PATH, as often as needed.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    executor: Annotated[str, typer.Option(help="How cells are run.")] = "local",
    workers: Annotated[int, typer.Option(min=0, help="Cells at once; 0: one a core.")] = 0,
    seconds: Annotated[
        float | None, typer.Option(help="A cell's limit; by default the preset's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of results.")] = Path("benchmark"),
    rerun: Annotated[Rerun, typer.Option(help="Run cells again that ended so.")] = Rerun.none,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells, run none.")] = False,
) -> None:
    """Run every task against every registered solver; a second call does what is missing."""
    output: Output = ctx.obj
    selection = Selection(
        tasks=_listed(tasks),
        models=_listed(models),
        solvers=_listed(solvers),
        gradients=_listed(gradients),
        preset=preset.value,
        seeds=seeds,
        device=device,
        data=_located(data or [], _listed(tasks)),
    )
    limit = SECONDS[preset] if seconds is None else seconds
    try:
        planned = plan(selection)
        how = registry.executors.create(executor, workers=workers, seconds=limit)
    except (UnknownNameError, ArgumentError) as error:
        raise typer.BadParameter(str(error)) from None
    store = Store(out)
    if dry_run:
        _show_plan(planned, store, output)
        return
    store.prepare()
    if rerun is not Rerun.none:
        _forget(planned, store, rerun)
    rows = _run(planned, store, how, output)
    _show(rows, output)
    load_target(_REPORT)(out, output)
    if rows and not any(row["status"] == OK for row in rows):
        raise typer.Exit(1)


def _run(planned: Sequence[Planned], store: Store, how: Executor, output: Output) -> list[Row]:
    """Run what has no outcome yet and return the rows of the whole plan, in its order."""
    outcomes = {row["cell"]: row for row in store.settle(planned)}
    todo = [item.cell for item in planned if item.cell.key not in outcomes]
    output.note(
        f"{len(planned)} cells: {len(todo)} to run, {len(outcomes)} have an outcome; "
        f"results go to {store.root}"
    )
    try:
        with showing(output, len(todo)) as advance, contextlib.closing(how.run(todo, store)) as ran:
            for row in ran:
                outcomes[row["cell"]] = row
                advance(row)
    except KeyboardInterrupt:
        output.note(
            f"stopped: {len(outcomes)} of {len(planned)} cells are stored in {store.root}; "
            "the same command goes on from there"
        )
        raise
    return [outcomes[item.cell.key] for item in planned if item.cell.key in outcomes]


def _show_plan(planned: Sequence[Planned], store: Store, output: Output) -> None:
    rows = []
    for item in planned:
        row = item.cell.row(item.status or "planned", item.reason)
        stored = store.read(item.cell)
        if stored is not None and stored["status"] not in PLANNED_STATUSES:
            row |= {"status": stored["status"], "reason": stored["reason"] or "stored"}
        rows.append(row)
    columns = ("cell", *_varying(rows), "status", "reason")
    output.rows(rows, columns)
    count = Counter(row["status"] for row in rows)
    output.note(
        f"{len(rows)} cells: " + ", ".join(f"{number} {name}" for name, number in count.items())
    )


def _show(rows: Sequence[Row], output: Output) -> None:
    """Write the table of all cells and, for people, each reason once with the cells it is of."""
    shown = [{k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in rows]
    for row in shown:
        row["evaluations"] = row.get("f_forward")
    measured = ("status", "score_name", "score", "solver_error", "evaluations", "seconds")
    if not output.json:
        shown = [row for row in shown if row["task"]]  # a lost plugin is among the reasons
    output.rows(shown, (*_varying(shown), *measured))
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["reason"]:
            kind = (row["task"], row["status"], row["reason"])
            reasons.setdefault(kind, []).append(row["solver"] or row["model"])
    if reasons and not output.json:
        console = output.console()
        console.print()
        for (task, status, reason), names in reasons.items():
            where = f"{task} × {', '.join(names)}: " if task else ""
            console.print(f"{where}{status.replace('_', ' ')}, {reason}", soft_wrap=True)


def _varying(rows: Sequence[Row]) -> list[str]:
    """Return task, solver and those other parts of a cell's name that differ within a task."""
    return [
        field
        for field in IDENTITY
        if field in ("task", "solver")
        or len({(row["task"], row.get(field)) for row in rows}) > len({row["task"] for row in rows})
    ]


def _forget(planned: Sequence[Planned], store: Store, rerun: Rerun) -> None:
    for item in planned:
        stored = store.read(item.cell)
        if stored and (rerun is Rerun.all or stored["status"] in LOST_STATUSES):
            store.forget(item.cell)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _located(pairs: Sequence[str], tasks: Sequence[str]) -> dict[str, Path]:
    located: dict[str, Path] = {}
    for pair in pairs:
        task, equals, path = pair.partition("=")
        if not equals or task not in registry.tasks:
            raise typer.BadParameter(
                f"--data takes TASK=PATH with a task of {', '.join(registry.tasks)}; "
                f"{pair!r} is not that"
            )
        if tasks and task not in tasks:
            raise typer.BadParameter(f"--data {pair} has no effect: {task} is not among --tasks")
        if not Path(path).expanduser().exists():
            raise typer.BadParameter(f"--data {pair}: there is nothing at {path}")
        located[task] = Path(path).expanduser().resolve()
    return located
