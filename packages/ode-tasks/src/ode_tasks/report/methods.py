"""What the study's five methods cost and reach here, beside the figures that it printed."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from ode_tasks.report.groups import Group, Set, sets, spread
from ode_tasks.report.rows import scientific
from ode_tasks.report.section import Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result


class Method(NamedTuple):
    """A method of the study with the memory (MB) and evaluations that it printed."""

    solver: str
    rtol: float | None
    memory: int
    forward: int
    backward: int

    @property
    def name(self) -> str:
        """Return the method's name in the table."""
        return self.solver if self.rtol is None else f"{self.solver} ({scientific(self.rtol)})"


METHODS = (
    Method("dopri5", 1e-3, 3060, 21, 24),
    Method("dopri5", 1e-1, 2534, 17, 15),
    Method("rk4", None, 1701, 4, 5),
    Method("midpoint", None, 1598, 2, 3),
    Method("euler", None, 1367, 1, 2),
)

GRADIENTS = ("direct", "adjoint", "checkpoint")
COLUMNS = (
    "method",
    "gradient",
    "memory",
    "memory, study",
    "forward",
    "forward, study",
    "backward",
    "backward, study",
    "s / epoch",
    "training loss",
    "accuracy",
    "note",
)

_ONE_STEP = 1.0
_MODEL = "odenet"


def sections(results: Sequence[Result]) -> list[Section]:
    """Return the table for each set of image runs in which one of the methods is."""
    made = []
    for of_set in sets(results):
        found = {
            (method, gradient): group
            for method in METHODS
            for gradient in GRADIENTS
            if (group := chosen(of_set, method, gradient)) is not None
        }
        if found:
            made.append(Section(of_set.task, (_table(of_set, found),)))
    return made


def chosen(of_set: Set, method: Method, gradient: str) -> Group | None:
    """Return the runs of a method by a gradient, those of most seeds where there are several."""
    fitting = [
        group for group in of_set.groups if group.get("gradient") == gradient and _is(method, group)
    ]
    return max(fitting, key=lambda group: len(group.finished), default=None)


def _is(method: Method, group: Group) -> bool:
    run = group.runs[0]
    if group.get("model") != _MODEL or group.get("solver") != method.solver:
        return False
    if group.finished and group.finished[0].get("train_images") is None:
        return False
    rtol, dt = run.number("rtol"), run.number("dt")
    if method.rtol is None:
        return dt in (None, _ONE_STEP)
    return rtol is not None and math.isclose(rtol, method.rtol)


def _table(of_set: Set, found: dict[tuple[Method, str], Group]) -> Table:
    present = [g for g in GRADIENTS if any(gradient == g for _, gradient in found)]
    rows = tuple(
        _row(method, gradient, found.get((method, gradient)))
        for gradient in present
        for method in METHODS
    )
    title = f"{of_set.name}: what the study's methods cost"
    return Table(title, COLUMNS, rows, _notes(list(found.values())))


def _row(method: Method, gradient: str, group: Group | None) -> dict[str, str]:
    theirs = (f"{method.memory} MB", str(method.forward), str(method.backward))
    # The study trained by the adjoint.
    memory, forward, backward = theirs if gradient == "adjoint" else ("", "", "")
    if group is None:
        empty = dict.fromkeys(COLUMNS, "")
        return empty | {"method": method.name, "gradient": gradient, "note": "not run here"}
    cells = (
        method.name,
        gradient,
        mebibytes(group),
        memory,
        _evaluations(group, "f_forward"),
        forward,
        _evaluations(group, "f_backward"),
        backward,
        group.text("epoch_seconds", ".3g"),
        group.text("train_loss", ".3g"),
        group.text("score", ".1f", factor=100, unit=" %"),
        group.note,
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _evaluations(group: Group, name: str) -> str:
    """Return the evaluations in one block, of which a network may have several."""
    blocks = group.values("ode_blocks")
    return group.text(name, ".4g", factor=1 / (fmean(blocks) or 1) if blocks else 1)


def mebibytes(group: Group) -> str:
    """Return the memory of a training step."""
    values = [value / 2**20 for value in group.values("memory_bytes")]
    return spread(values, ",.0f" if values and max(values) >= 100 else ".3g", " MiB")


def _notes(groups: Sequence[Group]) -> tuple[str, ...]:
    runs = [run for group in groups for run in group.runs]
    kinds = {run.get("memory_kind") for run in runs}
    gradients = {group.get("gradient") for group in groups}
    seeds = sorted({int(run.get("seed") or 0) for run in runs})
    of_seeds = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    notes = [
        f"{_counted(runs, 'train_images')} images to train on, "
        f"{_counted(runs, 'test_images')} to test on, {_epochs(runs)}, {of_seeds}; last run "
        f"{_day(runs)} on "
        f"{next((r.get('machine') for r in runs if r.get('machine')), 'an unknown machine')}. "
        "Of seeds that differ, the least and the largest value stand in brackets.",
        "Evaluations are those in one ODE block, means over the batches of the last epoch. So are "
        "the study's: no single solve by dopri5 takes 21 or 17.",
    ]
    if "adjoint" in gradients:
        notes.append(
            "Backward evaluations are counted here with times that need no gradient: 4, 2 and 1 "
            "for a step of rk4, midpoint and euler by the adjoint. Times that need one cost one "
            "more, 5, 3 and 2, and that is what the study printed."
        )
    if "direct" in gradients:
        notes.append("By direct, nothing is evaluated again on the way back.")
    if "held for backward" in kinds:
        notes.append(
            "Memory is what one training step holds for its backward pass on the CPU, parameters "
            "and inputs not counted. The study's is all that its GPU had allocated, so compare the "
            "order."
        )
    if "peak allocated" in kinds:
        notes.append("Memory is the peak that PyTorch allocated on the GPU in one training step.")
    return tuple(notes)


def _day(runs: Sequence[Result]) -> str:
    return max(str(r.get("date") or "") for r in runs)[:10] or "at an unknown date"


def _counted(runs: Sequence[Result], name: str) -> str:
    counts = sorted({int(value) for r in runs if (value := r.number(name)) is not None})
    return " or ".join(f"{count:,}" for count in counts) or "an unknown number of"


def _epochs(runs: Sequence[Result]) -> str:
    counts = sorted({len(r.get("history") or ()) for r in runs if r.ok})
    return " or ".join(map(str, counts)) + (" epoch" if counts == [1] else " epochs")
