"""`ode benchmark`: plans the matrix, runs what is missing, shows and reports what there is."""

from __future__ import annotations

import contextlib
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ode_core import registry
from ode_core.errors import ArgumentError, DataError, UnknownNameError
from ode_core.records import CommandRecord
from ode_core.registry import load_target
from ode_tasks.benchmark import options
from ode_tasks.benchmark.cell import FAILED, LOST_STATUSES, OK
from ode_tasks.benchmark.conditions import machine_id
from ode_tasks.benchmark.estimate import FIELDS, Times
from ode_tasks.benchmark.options import executor_options, listed, located, numbers
from ode_tasks.benchmark.plan import Planned, Selection, plan
from ode_tasks.benchmark.progress import showing
from ode_tasks.benchmark.store import Store
from ode_tasks.benchmark.tables import cost, show, show_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.console import Output
    from ode_tasks.benchmark.cell import Row
    from ode_tasks.benchmark.executor import Executor

_REPORT = CommandRecord("report", "ode_tasks.report:write", "writes tables and plots")

SECONDS = {"smoke": 20.0, "quick": 1800.0, "full": 86_400.0}
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
    tasks: options.Tasks = "",
    models: options.Models = "",
    solvers: options.Solvers = "",
    gradients: options.Gradients = "direct",
    tolerances: options.Tolerances = "",
    steps: options.Steps = "",
    where: options.Where = "",
    data: options.Data = None,
    seeds: options.Seeds = 1,
    devices: options.Devices = "cpu",
    timed: options.TimedOnly = False,
    executor: Annotated[str, typer.Option(help="How cells are run.")] = "local",
    executor_set: options.ExecutorSet = None,
    workers: Annotated[int, typer.Option(min=0, help="Cells at once; 0: one a core.")] = 0,
    seconds: options.Seconds = None,
    memory: Annotated[float, typer.Option(help="A cell's limit in GiB; 0: none.")] = 0.0,
    out: Annotated[Path, typer.Option(help="The folder of results.")] = Path("benchmark"),
    rerun: Annotated[Rerun, typer.Option(help="Run cells again that ended so.")] = Rerun.none,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells, run none.")] = False,
) -> None:
    """Run every task against every registered solver; a second call does what is missing."""
    output: Output = ctx.obj
    selection = Selection(
        tasks=listed(tasks),
        models=listed(models),
        solvers=listed(solvers),
        gradients=listed(gradients),
        tolerances=numbers("--tolerances", tolerances),
        steps=numbers("--steps", steps),
        preset=preset.value,
        seeds=seeds,
        devices=listed(devices),
        data=located(data or [], listed(tasks)),
        where=where,
        machine=machine_id() if timed else "",
    )
    limit = SECONDS[preset] if seconds is None else seconds
    workers = workers or int(timed)
    try:
        planned = plan(selection)
        common = {"workers": workers, "seconds": limit, "memory": memory}
        own = executor_options(executor, executor_set or [])
        how = registry.executors.create(executor, **common, **own)
    except (UnknownNameError, ArgumentError) as error:
        raise typer.BadParameter(str(error)) from None
    store = Store(out)
    if dry_run:
        _show_plan(planned, store, how, output)
        return
    store.prepare()
    _forget(planned, store, rerun)
    rows = _run(planned, store, how, output)
    show(rows, output)
    load_target(_REPORT)(out, output)
    if rows and not any(row["status"] == OK for row in rows):
        raise typer.Exit(1)


def _run(planned: Sequence[Planned], store: Store, how: Executor, output: Output) -> list[Row]:
    """Run what has no outcome yet and return the rows of the whole plan, in its order."""
    outcomes = {row["cell"]: row for row in store.settle(planned)}
    outcomes |= _unreadable([p for p in planned if p.cell.key not in outcomes], store)
    todo = [item.cell for item in planned if item.cell.key not in outcomes]
    output.note(
        f"{len(planned)} cells: {len(todo)} to run, {len(outcomes)} have an outcome; "
        f"results go to {store.root}"
    )
    start, own = time.monotonic(), []
    try:
        with showing(output, len(todo)) as advance, contextlib.closing(how.run(todo, store)) as ran:
            for row in ran:
                # What is kept of thousands of cells; the lists are in their files.
                outcomes[row["cell"]] = {k: v for k, v in row.items() if not isinstance(v, list)}
                own.append(row.get("seconds") or 0.0)
                advance(row)
    except KeyboardInterrupt:
        output.note(
            f"stopped: {len(outcomes)} of {len(planned)} cells are stored in {store.root}; "
            "the same command goes on from there"
        )
        raise
    if own:
        output.note(cost(own, time.monotonic() - start, how))
    return [outcomes[item.cell.key] for item in planned if item.cell.key in outcomes]


def _unreadable(planned: Sequence[Planned], store: Store) -> dict[str, Row]:
    """Return a row for each cell in whose place lies a file that is no row; it stays there."""
    rows = {}
    for item in planned:
        try:
            row = store.read(item.cell)
        except DataError as error:
            row = item.cell.row(FAILED, str(error))
        if row is not None:
            rows[item.cell.key] = row
    return rows


def _show_plan(planned: Sequence[Planned], store: Store, how: Any, output: Output) -> None:
    stored = store.table(("cell", "reason", *FIELDS)).rows
    times = Times(stored)
    show_plan(planned, {row["cell"]: row for row in stored}, times, output)
    missing = {item.cell.key for item in planned} - {row["cell"] for row in stored}
    todo = [p.cell for p in planned if not p.status and p.cell.key in missing]
    if todo:
        workers = getattr(how, "workers", 1) or 1
        limit = getattr(getattr(how, "limits", None), "seconds", 0.0)
        output.note(times.estimate(todo).sentence(workers, limit))


def _forget(planned: Sequence[Planned], store: Store, rerun: Rerun) -> None:
    if rerun is Rerun.none:
        return
    statuses = {row["cell"]: row["status"] for row in store.table(("cell", "status")).rows}
    for item in planned:
        status = statuses.get(item.cell.key)
        if status and (rerun is Rerun.all or status in LOST_STATUSES):
            store.forget(item.cell)
