"""A study's cells with what they reach and cost, whatever the task is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_tasks.report.groups import Group, Set, sets
from ode_tasks.report.methods import mebibytes
from ode_tasks.report.section import Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result

# Fields of some tasks, and what they are called.
_OWN = {
    "trajectory_error_beyond": "beyond the training window",
    "field_error": "field error",
    "field_error_beyond": "field error beyond",
}


def sections(results: Sequence[Result]) -> list[Section]:
    """Return one table for each set of a study's runs that have a score."""
    made = []
    for of_set in sets(results):
        groups = [group for group in of_set.groups if group.cell]
        if any(group.values("score") for group in groups):
            made.append(Section(of_set.task, (_table(of_set, groups),)))
    return made


def _table(of_set: Set, groups: Sequence[Group]) -> Table:
    named = next(group for group in groups if group.values("score")).finished[0]
    score = str(named.get("score_name")).replace("_", " ")
    own = {name: text for name, text in _OWN.items() if any(g.values(name) for g in groups)}
    columns = ("cell", "seeds", score, *own.values(), "training loss", "forward", "backward",
               "memory", "s / epoch", "note")  # fmt: skip
    rows = []
    for group in groups:
        cells = (
            group.cell.replace("_", " "),
            str(len(group.finished)),
            group.text("score", ".3g"),
            *(group.text(name, ".3g") for name in own),
            group.text("train_loss", ".3g"),
            group.text("f_forward", ".4g"),
            group.text("f_backward", ".4g"),
            mebibytes(group),
            group.text("epoch_seconds", ".3g"),
            group.note,
        )
        rows.append(dict(zip(columns, cells, strict=True)))
    better = "higher" if named.get("higher_is_better") else "lower"
    return Table(
        f"{of_set.name}: every cell",
        columns,
        tuple(rows),
        (
            f"Means over seeds; of seeds that differ, the least and the largest value stand in "
            f"brackets. Of the {score}, {better} is better.",
        ),
    )
