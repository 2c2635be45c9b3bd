"""One run of one task, and the row it leaves."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ode_core.errors import ArgumentError
from ode_core.registry import gradients, models, solvers, tasks
from ode_tasks import measure
from ode_tasks.settings import check
from ode_tasks.train import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ode_core.protocols import Progress, RunConfig
    from ode_core.records import Record

METRICS = "metrics.json"
_SUITE = ("ode-core", "ode-solvers", "ode-models", "ode-tasks")


class Silent:
    """Progress that nobody looks at."""

    def start(self, total: int, text: str) -> None:
        """Ignore it."""

    def advance(self, text: str = "") -> None:
        """Ignore it."""


def execute(config: RunConfig, progress: Progress) -> dict[str, Any]:
    """Run the config's task and return one row: the config, the metrics and what they came from.

    With `config.out` the row is also written there as `metrics.json`. Raises ArgumentError where
    that file is already there and what `settings.check` raises, before any work, then whatever the
    task raises.
    """
    if config.out is not None:
        require_new(config.out)
    check(config)
    start, date = perf_counter(), now()
    with seeded(config.seed):
        metrics = tasks.create(config.task).run(config, progress)
    ended = {"status": "ok", "reason": "", "date": date, "seconds": perf_counter() - start}
    row = describe(config) | dict(metrics) | ended
    if config.out is not None:
        write(config.out / METRICS, row)
    return row


def describe(config: RunConfig) -> dict[str, Any]:
    """Return what a row says before there are metrics: the config, the date and the machine."""
    row = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
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


def require_new(out: Path) -> None:
    """Raise ArgumentError where the folder holds a finished run, or is no folder."""
    if (out / METRICS).exists():
        raise ArgumentError(
            f"{out / METRICS} holds a finished run; choose another --out or remove it"
        )
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"--out takes a folder, and {out} is a file; choose another")


def write(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row as JSON in one go, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(row), indent=1, default=str, allow_nan=False)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(name, 0o644)  # mkstemp makes files that others cannot read
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


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
