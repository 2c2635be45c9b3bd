"""A study: every cell with every seed, into one folder that says what made it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ode_core.errors import ArgumentError, SolveError
from ode_tasks import measure
from ode_tasks.experiments import study_of
from ode_tasks.record import CHECKPOINT, LOG
from ode_tasks.run import METRICS, describe, execute, write
from ode_tasks.train import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.experiments import Cell

MANIFEST = "study.json"
_SAME = ("task", "preset", "data", "settings")


def chosen(task: str, preset: str, only: Sequence[str]) -> list[Cell]:
    """Return the study's cells whose names match one of the patterns; all where there is none.

    Raises what `study_of` raises, and ArgumentError for a pattern that matches nothing.
    """
    cells = study_of(task, preset).cells
    names = [cell.name for cell in cells]
    for pattern in only:
        if not any(fnmatch(name, pattern) for name in names):
            raise ArgumentError(
                f"no cell of the study of {task} matches {pattern!r}; its cells are "
                f"{', '.join(names)}"
            )
    return [c for c in cells if not only or any(fnmatch(c.name, pattern) for pattern in only)]


def prepare(base: RunConfig, out: Path, seeds: int) -> None:
    """Leave in the folder what made it: the command, the commit and what all its runs share.

    Raises ArgumentError where the folder holds another study, whose runs would be mixed with these.
    """
    path = out / MANIFEST
    shared = {
        "task": base.task,
        "preset": base.preset,
        "data": None if base.data is None else str(base.data),
        "settings": dict(base.settings),
    }
    made: dict[str, Any] = {
        **shared,
        "command": command(base, out, seeds),
        "commits": [],
        "seeds": seeds,
    }
    if path.exists() and any(out.glob("*/seed-*/*")):
        made |= {"commits": [], **_read(path)}
        other = [f"{name} {made[name]!r}" for name in _SAME if made[name] != shared[name]]
        if other:
            raise ArgumentError(
                f"{out} holds a study with {' and '.join(other)}; choose another --out, or go on "
                "with the same options"
            )
        made |= {"command": command(base, out, seeds), "seeds": max(seeds, made["seeds"])}
    commit = measure.commit()
    if commit is not None and commit not in made["commits"]:
        made["commits"].append(commit)
    write(path, made)


def command(base: RunConfig, out: Path, seeds: int) -> str:
    """Return the command line of the study."""
    words = ["ode", "study", base.task, "--preset", base.preset, "--seeds", str(seeds)]
    for name, value, default in (
        ("--seed", base.seed, 0),
        ("--device", base.device, "cpu"),
        ("--data", base.data, None),
    ):
        words += [name, str(value)] if value != default else []
    for key, value in base.settings.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, "--out", str(out)])


def configs(cell: Cell, base: RunConfig, out: Path, seeds: int) -> Iterator[RunConfig]:
    """Yield a run of the cell for each seed, from the base's on, into `out/<cell>/seed-<n>`.

    One that was stopped goes on from its checkpoint.
    """
    for seed in range(base.seed, base.seed + seeds):
        folder = out / cell.name / f"seed-{seed}"
        yield dataclasses.replace(
            base,
            model=cell.model,
            solver=cell.solver,
            gradient=cell.gradient,
            rtol=cell.tolerance,
            atol=cell.tolerance,
            dt=cell.dt,
            seed=seed,
            settings={**dict(cell.defaults), **base.settings, **dict(cell.settings)},
            out=folder,
            checkpoint=True,
            resume=(folder / CHECKPOINT).exists(),
        )


def run_once(
    config: RunConfig, *, progress: Callable[[str], AbstractContextManager[Progress]]
) -> dict[str, Any] | None:
    """Make a run and return its row, None where its folder holds a finished one.

    A solve or a training that cannot go on is a row of status "failed" with the reason, because
    that too is a result of the study.
    """
    assert config.out is not None
    if (config.out / METRICS).exists():
        return None
    try:
        with progress(f"{config.out.parent.name}, seed {config.seed}") as bar:
            return execute(config, bar)
    except (SolveError, TrainingError) as error:
        failed = {"status": "failed", "reason": str(error), "history": _epochs(config.out)}
        row = {**describe(config), **failed}
        write(config.out / METRICS, row)
        return row


def _epochs(out: Path) -> list[dict[str, Any]]:
    """Return the epochs that a run had behind it, from its log."""
    path = out / LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["kind"] == "epoch"]


def _read(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: made[name] for name in (*_SAME, "commits", "seeds")}
    except (OSError, ValueError, KeyError, TypeError):
        raise ArgumentError(
            f"{path} was not written by a study; move it away or choose another --out"
        ) from None
