"""The matrix of a benchmark, made from records alone: nothing here imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ode_core import registry
from ode_core.records import Record
from ode_tasks.benchmark.cell import PLUGIN_FAILED, SKIPPED, Cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ode_core.records import SolverRecord, TaskRecord
    from ode_core.registry import Catalogue

R = TypeVar("R", bound=Record)

LARGEST_IMPLICIT_STATE = 64
"""An implicit step solves equations as large as the state, at a cost that grows with its cube."""


@dataclass(frozen=True)
class Selection:
    """What the user asked for; empty `tasks` and `solvers` mean all that are registered.

    Empty `models` means each task's default model. `data` maps a task to where its data lies.
    """

    tasks: Sequence[str] = ()
    models: Sequence[str] = ()
    solvers: Sequence[str] = ()
    gradients: Sequence[str] = ("direct",)
    preset: str = "smoke"
    seeds: int = 1
    device: str = "cpu"
    data: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A cell to run, or, with a status, a cell that is not run and the reason."""

    cell: Cell
    status: str = ""
    reason: str = ""


def plan(selection: Selection) -> list[Planned]:
    """Return the whole matrix; what makes no sense is in it with its reason.

    Raises UnknownNameError for a name that nobody registers.
    """
    versions = _Versions()
    planned = list(_lost_plugins(selection))
    for task, model, solver, gradient in _combinations(selection):
        reason = obstacle(task, model, solver, gradient, selection.data)
        for seed in range(selection.seeds):
            cell = Cell(
                task,
                model,
                solver,
                gradient,
                preset=selection.preset,
                seed=seed,
                device=selection.device,
                data=str(selection.data.get(task, "")),
                packages=versions.of(task=task, model=model, solver=solver, gradient=gradient),
            )
            planned.append(Planned(cell, SKIPPED if reason else "", reason))
    return planned


def _combinations(selection: Selection) -> Iterator[tuple[str, str, str, str]]:
    """Yield task, model, solver, gradient; the last two empty where a solver has no part in it."""
    solvers = _names(registry.solvers, selection.solvers)
    gradients = _names(registry.gradients, selection.gradients)
    models = _names(registry.models, selection.models) if selection.models else []
    for task in _names(registry.tasks, selection.tasks):
        record = registry.tasks[task]
        for model in models or [record.default_model]:
            found = registry.models.get(model)
            if found is None or found.fits != record.fits or not found.solves:
                yield task, model, "", ""
                continue
            for solver in solvers:
                for gradient in gradients:
                    yield task, model, solver, gradient


def obstacle(task: str, model: str, solver: str, gradient: str, data: Mapping[str, Path]) -> str:
    """Return why this cell is not run, or an empty text."""
    task_record, model_record = registry.tasks[task], registry.models.get(model)
    if model_record is None:
        return f"the model {model!r} is not installed"
    if model_record.fits != task_record.fits:
        return (
            f"the model {model!r} is for {model_record.fits}, "
            f"the task {task!r} takes a model for {task_record.fits}"
        )
    if task_record.needs_data and task not in data:
        return f"no data, pass --data {task}=PATH"
    if not solver:
        return _missing(task_record, model_record)
    solver_record = registry.solvers[solver]
    missing = _missing(task_record, model_record, solver_record, registry.gradients[gradient])
    return missing or _unfit(task_record, solver_record)


def _missing(*records: Record) -> str:
    for record in records:
        if record.missing:
            needed = " ".join(f"'{requirement}'" for requirement in record.missing)
            return f"the {record.kind} {record.name!r} is incomplete: pip install {needed}"
    return ""


def _unfit(task: TaskRecord, solver: SolverRecord) -> str:
    if not solver.differentiable:
        return (
            f"the solver {solver.name!r} is not differentiable, so nothing can be trained with it"
        )
    if solver.takes_pairs:
        return f"the solver {solver.name!r} takes pairs (q, v) alone, and no model's state is one"
    if solver.implicit and task.state_size > LARGEST_IMPLICIT_STATE:
        return (
            f"too costly: an implicit solver on a state of {task.state_size} numbers "
            f"(at most {LARGEST_IMPLICIT_STATE})"
        )
    return ""


def _lost_plugins(selection: Selection) -> Iterator[Planned]:
    for plugin in registry.REGISTRY.plugins:
        if plugin.lost:
            name = f"{plugin.package} {plugin.version}".strip()
            cell = Cell("", "", "", "", selection.preset, packages=(("plugin", name),))
            yield Planned(cell, PLUGIN_FAILED, plugin.sentence)


def _names(catalogue: Catalogue[R], wanted: Sequence[str]) -> list[str]:
    """Return the wanted names without repeats, or all; raises UnknownNameError."""
    for name in wanted:
        catalogue[name]
    return list(dict.fromkeys(wanted)) or list(catalogue)


class _Versions:
    """The distributions that the parts of a cell come from, each looked up once."""

    def __init__(self) -> None:
        self._torch = metadata.version("torch")
        self._files = {
            plugin.package: _digest(Path(plugin.target))
            for plugin in registry.REGISTRY.plugins
            if not plugin.version and Path(plugin.target).is_file()
        }

    def of(self, **names: str) -> tuple[tuple[str, str], ...]:
        catalogues: dict[str, Catalogue[Any]] = {
            "task": registry.tasks,
            "model": registry.models,
            "solver": registry.solvers,
            "gradient": registry.gradients,
        }
        pairs = [("torch", self._torch)]
        for part, name in names.items():
            record = catalogues[part].get(name)
            if record is not None:
                version = record.version or self._files.get(record.package, "")
                pairs.append((part, f"{record.package} {version}".strip()))
        return tuple(pairs)


def _digest(path: Path) -> str:
    # A file has no version; its content takes that place, so that a changed file is run again.
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
