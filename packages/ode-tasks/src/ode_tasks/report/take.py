"""What to take for each task, and the ways that no other beats, as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ode_tasks.report.groups import sets
from ode_tasks.report.methods import mebibytes
from ode_tasks.report.pareto import Choice, Way, choice
from ode_tasks.report.section import Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.groups import Set
    from ode_tasks.report.rows import Result


def sections(results: Sequence[Result]) -> list[Section]:
    """Return the choice for each set of runs in which something has a score."""
    return [made for of_set in sets(results) if (made := _section(of_set)) is not None]


def _section(of_set: Set) -> Section | None:
    made = choice(of_set)
    if made is None:
        return None
    tables = (_table(of_set, made),) if made.number > 1 else ()
    return Section(of_set.task, tables, sentences=made.sentences)


def _table(of_set: Set, made: Choice) -> Table:
    score = str(made.best.group.finished[0].get("score_name") or "score").replace("_", " ")
    columns = ("way", "seeds", score, "s / epoch", "memory", "forward", "backward", "solver error")
    return Table(
        f"{of_set.name}: what no other beats in score, time and memory",
        columns,
        tuple(dict(zip(columns, _cells(way), strict=True)) for way in made.front),
        ("Means over seeds; of seeds that differ, the least and the largest value in brackets.",),
    )


def _cells(way: Way) -> tuple[str, ...]:
    group = way.group
    return (
        way.label,
        str(len(group.finished)),
        group.text("score", ".3g"),
        "" if math.isnan(way.seconds) else group.text("epoch_seconds", ".3g"),
        mebibytes(group),
        group.text("f_forward", ".4g"),
        group.text("f_backward", ".4g"),
        group.text("solver_error", ".2g"),
    )
