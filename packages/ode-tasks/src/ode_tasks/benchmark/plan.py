"""The matrix of a benchmark, made from records alone: nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ode_core import registry
from ode_core.errors import ArgumentError
from ode_core.records import GradientRecord, ModelRecord, Record, SolverRecord, TaskRecord
from ode_tasks.benchmark.cell import PLUGIN_FAILED, SKIPPED, Cell
from ode_tasks.benchmark.obstacle import obstacle
from ode_tasks.benchmark.provenance import Provenance, data_digest
from ode_tasks.benchmark.where import condition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ode_core.registry import Catalogue
    from ode_tasks.benchmark.where import Condition

__all__ = ["Planned", "Selection", "obstacle", "plan"]

R = TypeVar("R", bound=Record)

# Where a name is in several records, the first of these that has it gives its value.
_KINDS: tuple[type[Record], ...] = (SolverRecord, TaskRecord, ModelRecord, GradientRecord)
_OWN = ("task", "model", "solver", "gradient", "rtol", "atol", "dt", "preset", "seed", "device")


@dataclass(frozen=True)
class Selection:
    """What the user asked for; empty `tasks` and `solvers` mean all that are registered.

    Names may have `*` and `?` in them. Empty `models` means each task's default model, empty
    `tolerances` and `steps` the preset's: a tolerance is for solvers that choose their steps, a
    step for the others. `data` maps a task to where its data lies, `where` is a condition over the
    fields of records, `machine` names the one that times are taken on, if they are what is wanted.
    """

    tasks: Sequence[str] = ()
    models: Sequence[str] = ()
    solvers: Sequence[str] = ()
    gradients: Sequence[str] = ("direct",)
    tolerances: Sequence[float] = ()
    steps: Sequence[float] = ()
    preset: str = "smoke"
    seeds: int = 1
    devices: Sequence[str] = ("cpu",)
    data: Mapping[str, Path] = field(default_factory=dict)
    where: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Planned:
    """A cell to run, or, with a status, a cell that is not run and the reason."""

    cell: Cell
    status: str = ""
    reason: str = ""


def plan(selection: Selection) -> list[Planned]:
    """Return the whole matrix; what makes no sense is in it with its reason.

    Raises UnknownNameError for a name that nobody registers, ArgumentError for a condition that is
    none or an option that has no effect, DataError for data that cannot be read.
    """
    _refuse_without_effect(selection)
    wanted = condition(selection.where, _known_fields()) if selection.where else None
    origins = Provenance()
    digests = {task: data_digest(path) for task, path in selection.data.items()}
    planned = list(_lost_plugins(selection))
    for task, model, solver, gradient in _combinations(selection):
        reason = obstacle(task, model, solver, gradient, selection.data)
        packages, sources = origins.pairs(task=task, model=model, solver=solver, gradient=gradient)
        for settings in _settings(selection, solver):
            cell = Cell(
                task,
                model,
                solver,
                gradient,
                **settings,
                preset=selection.preset,
                data=str(selection.data.get(task, "")),
                data_hash=digests.get(task, ""),
                packages=packages,
                sources=sources,
                machine=selection.machine,
            )
            if wanted is None or _holds(wanted, cell):
                planned.append(Planned(cell, SKIPPED if reason else "", reason))
    return planned


def _settings(selection: Selection, solver: str) -> Iterator[dict[str, Any]]:
    """Yield the tolerances or steps, seeds and devices of one combination."""
    record = registry.solvers[solver] if solver else None
    if record is None:
        accuracies: list[dict[str, float]] = [{}]
    elif record.adaptive:
        accuracies = [{"rtol": value, "atol": value} for value in selection.tolerances] or [{}]
    else:
        accuracies = [{"dt": value} for value in selection.steps] or [{}]
    for device in dict.fromkeys(selection.devices):
        for accuracy in accuracies:
            for seed in range(selection.seeds):
                yield {**accuracy, "seed": seed, "device": device}


def _refuse_without_effect(selection: Selection) -> None:
    chosen = [registry.solvers[name] for name in _names(registry.solvers, selection.solvers)]
    if selection.tolerances and not any(record.adaptive for record in chosen):
        raise ArgumentError("--tolerances has no effect: no solver chosen takes one; use --steps")
    if selection.steps and all(record.adaptive for record in chosen):
        raise ArgumentError("--steps has no effect: no solver chosen takes one; use --tolerances")


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


def _lost_plugins(selection: Selection) -> Iterator[Planned]:
    for plugin in registry.REGISTRY.plugins:
        if plugin.lost:
            name = f"{plugin.package} {plugin.version}".strip()
            cell = Cell("", "", "", "", preset=selection.preset, packages=(("plugin", name),))
            yield Planned(cell, PLUGIN_FAILED, plugin.sentence)


def _names(catalogue: Catalogue[R], wanted: Sequence[str]) -> list[str]:
    """Return the wanted names without repeats, or all; raises UnknownNameError."""
    chosen: list[str] = []
    for pattern in wanted:
        matching = [name for name in catalogue if fnmatchcase(name, pattern)]
        if not matching:
            _ = catalogue[pattern]  # which says what was meant, and knows names with a package
        chosen += matching or [pattern]
    return list(dict.fromkeys(chosen)) or list(catalogue)


def _known_fields() -> Collection[str]:
    own = {f"{kind.kind}.{f.name}" for kind in _KINDS for f in fields(kind)}
    return own | {name.partition(".")[2] for name in own} | set(_OWN)


def _holds(wanted: Condition, cell: Cell) -> bool:
    """Return whether the condition holds for the fields of a cell and of its parts' records."""
    catalogues: tuple[Catalogue[Any], ...] = (
        registry.solvers,
        registry.tasks,
        registry.models,
        registry.gradients,
    )
    found: dict[str, Any] = {}
    for kind, catalogue in zip(_KINDS, catalogues, strict=True):
        record = catalogue.get(getattr(cell, kind.kind))
        for name in fields(kind) if record is not None else ():
            value = getattr(record, name.name)
            found[f"{kind.kind}.{name.name}"] = value
            found.setdefault(name.name, value)
    return wanted(found | {name: getattr(cell, name) for name in _OWN})
