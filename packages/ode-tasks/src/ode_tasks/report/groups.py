"""Runs that differ in their seed alone, as one: a mean, and how far the seeds are apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_tasks.experiments import planned
from ode_tasks.report.rows import scientific

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result

_SHARED = ("task", "preset", "device", "data")
_OWN = ("model", "solver", "gradient", "rtol", "dt")
_CONTROLS = {"resnet": "ResNet", "one_block": "one residual block", "no_block": "no block"}


class Set(NamedTuple):
    """The groups of runs of one task with the same preset, device and data."""

    task: str
    preset: str
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """Return the set in words."""
        return f"{self.task} ({self.preset})"

    @property
    def stem(self) -> str:
        """Return how the names of its files begin."""
        return f"{self.task}-{self.preset}"

    def cell(self, name: str) -> Group | None:
        """Return the group that is this cell of a study, None where it is not here."""
        return next((group for group in self.groups if group.cell == name), None)


@dataclass(frozen=True)
class Group:
    """The runs that differ in their seed alone, in the order of their seeds, failed ones too."""

    runs: tuple[Result, ...]

    @cached_property
    def finished(self) -> list[Result]:
        """Return the runs that have an outcome."""
        return [run for run in self.runs if run.ok]

    @property
    def cell(self) -> str:
        """Return the name of the study's cell, empty for runs of no study."""
        return str(self.get("study_cell") or "")

    @property
    def name(self) -> str:
        """Return what the runs are called: the network, or how its blocks are solved."""
        solver, model = self.get("solver"), str(self.get("model"))
        if not solver:
            return _CONTROLS.get(self.cell or model, model)
        rtol, dt = (self.runs[0].number(name) for name in ("rtol", "dt"))
        if rtol is not None:
            return f"{solver} ({scientific(rtol)})"
        if dt is None or self.get("task") not in ("cifar10", "digits"):
            return str(solver)
        steps = round(1.0 / dt)  # image blocks go over [0, 1]
        return str(solver) if steps == 1 else f"{solver}, {steps} steps"

    @property
    def note(self) -> str:
        """Return how the runs without an outcome ended, empty where all have one."""
        lost = [run for run in self.runs if not run.ok]
        if not lost:
            return ""
        seeds = ", ".join(str(run.get("seed")) for run in lost)
        return f"seed {seeds} {lost[0].get('status')}: {lost[0].get('reason')}"

    def get(self, name: str) -> Any:
        """Return a field that all runs share."""
        return self.runs[0].get(name)

    def values(self, name: str) -> list[float]:
        """Return a field of the finished runs that have it as a number."""
        found = (run.number(name) for run in self.finished)
        return [value for value in found if value is not None]

    def text(self, name: str, form: str, *, factor: float = 1.0, unit: str = "") -> str:
        """Return the mean of a field and, of seeds that differ, its least and largest value."""
        return spread([factor * value for value in self.values(name)], form, unit)


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return a mean and, of values that differ as written, the least and the largest."""
    if not values:
        return ""
    mean, low, high = (format(v, form) for v in (fmean(values), min(values), max(values)))
    return f"{mean}{unit}" if low == high else f"{mean}{unit} ({low} to {high})"


def sets(results: Sequence[Result]) -> list[Set]:
    """Return the results as sets of groups; of two runs with one seed the newer is taken.

    The groups of a study are in the order of its cells.
    """
    found: dict[tuple[str, ...], dict[tuple[str, ...], dict[float, Result]]] = {}
    known: dict[int, str] = {}  # rows share their settings
    for result in sorted(results, key=lambda result: str(result.row.get("date") or "")):
        groups = found.setdefault(_key(result, _SHARED), {})
        groups.setdefault(_own(result, known), {})[result.row.get("seed") or 0] = result
    made = []
    for (task, preset, *_), groups in found.items():
        of_seeds = [Group(tuple(runs[s] for s in sorted(runs))) for runs in groups.values()]
        study = planned(task, preset)
        names = [cell.name for cell in study.cells] if study is not None else []
        place = dict(zip(names, range(len(names)), strict=True))
        last = len(names)
        ordered = sorted(of_seeds, key=partial(_place, place, last))
        made.append(Set(task, preset, tuple(ordered)))
    return made


def _key(result: Result, names: Sequence[str]) -> tuple[str, ...]:
    row = result.row
    return tuple("" if (value := row.get(name)) is None else str(value) for name in names)


def _own(result: Result, known: dict[int, str]) -> tuple[str, ...]:
    row = result.row
    if row.get("study_cell"):
        return (str(row["study_cell"]),)
    settings = row.get("settings") or {}
    if not settings:
        return (*_key(result, _OWN), "{}")
    if id(settings) not in known:
        known[id(settings)] = json.dumps(settings, sort_keys=True)
    return (*_key(result, _OWN), known[id(settings)])


def _place(places: dict[str, int], last: int, group: Group) -> int:
    return places.get(group.cell, last)
