"""One run of one task, and the row it leaves."""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import nullcontext
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ode_core.errors import ArgumentError
from ode_core.registry import gradients, models, solvers, tasks
from ode_tasks import devices, files, measure, record
from ode_tasks.settings import check

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ode_core.protocols import Progress, RunConfig
    from ode_core.records import Record

METRICS = "metrics.json"
# How a run is kept says nothing of what it is.
_KEEPING = ("checkpoint", "resume", "tensorboard")
_SUITE = ("ode-core", "ode-solvers", "ode-models", "ode-tasks")


class Silent:
    """Progress that nobody looks at."""

    def start(self, total: int, text: str) -> None:
        """Ignore it."""

    def advance(self, text: str = "") -> None:
        """Ignore it."""


def execute(config: RunConfig, progress: Progress) -> dict[str, Any]:
    """Run the config's task and return one row: the config, the metrics and what they came from.

    With `config.out` the row is also written there as `metrics.json`; where that is already there
    and the config says `resume`, it is returned and nothing is run. Of several processes only the
    first is given `out`. Raises ArgumentError where the folder holds another run and what
    `settings.check` raises, before any work, then whatever the task raises.
    """
    if config.out is not None:
        if config.resume and (config.out / METRICS).exists():
            return _finished(config, config.out)
        require_new(config.out, resume=config.resume)
    check(config)
    start, date = perf_counter(), now()
    out = config.out if devices.rank() == 0 else None
    with devices.seeded(config.seed), files.room(out) if out else nullcontext():
        metrics = tasks.create(config.task).run(dataclasses.replace(config, out=out), progress)
    ended = {"status": "ok", "reason": "", "date": date, "seconds": perf_counter() - start}
    row = describe(config) | dict(metrics) | ended
    if out is not None:
        write(out / METRICS, row)
    return row


def describe(config: RunConfig) -> dict[str, Any]:
    """Return what a row says before there are metrics: the config, the date and the machine."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in _KEEPING]
    row = {name: getattr(config, name) for name in names}
    packages = _packages(config)
    paths = {name: None if row[name] is None else str(row[name]) for name in ("data", "out")}
    return (
        row
        | paths
        | {
            "settings": dict(config.settings),
            "date": now(),
            "machine": measure.machine(config.device),
            "packages": packages,
            "versions": measure.versions(dict.fromkeys((*_SUITE, *packages.values()))),
            "threads": torch.get_num_threads(),
        }
    )


def now() -> str:
    """Return the date and time in UTC, in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def require_new(out: Path, *, resume: bool = False) -> None:
    """Raise ArgumentError where the folder holds a run, or is no folder.

    One that was stopped may be there with `resume`.
    """
    if (out / METRICS).exists():
        raise ArgumentError(
            f"{out / METRICS} holds a finished run; choose another --out or remove it"
        )
    if (out / record.CHECKPOINT).exists() and not resume:
        raise ArgumentError(
            f"{out / record.CHECKPOINT} is of a run that was stopped; go on with --resume, choose "
            "another --out or remove it"
        )
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"--out takes a folder, and {out} is a file; choose another")


def _finished(config: RunConfig, out: Path) -> dict[str, Any]:
    """Return the row of a run that needs no more work; raises ArgumentError for another run's."""
    row: dict[str, Any] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    names = ("task", "model", "preset", "seed", "settings")
    differing = [name for name in names if row.get(name) != getattr(config, name)]
    if differing:
        raise ArgumentError(
            f"{out / METRICS} is of a run with another {' and '.join(differing)}; choose another "
            "--out"
        )
    return row


def write(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row as JSON in one go, so that a reader never sees half of it."""
    text = json.dumps(plain(row), indent=1, default=str, allow_nan=False)
    files.replace(path, (text + "\n").encode())


def plain(value: Any) -> Any:
    """Return the value with null for every number that JSON cannot write, at any depth."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _packages(config: RunConfig) -> dict[str, str]:
    """Return which distribution gave each part of the run."""
    used: dict[str, Record] = {"task": tasks[config.task], "model": models[config.model]}
    if models[config.model].solves:
        used |= {"solver": solvers[config.solver], "gradient": gradients[config.gradient]}
    return {part: record.package for part, record in used.items()}
