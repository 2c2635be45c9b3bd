"""What happened over the epochs: loss, score and evaluations, means over seeds with their range."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from ode_tasks.report.chart import MOST_SERIES, Axis, Chart, Point, Series
from ode_tasks.report.labels import labelled
from ode_tasks.report.pareto import ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.groups import Group, Set
    from ode_tasks.report.rows import Result

BANDS = " A line is the mean of its seeds, its band their range."


class _Kind(NamedTuple):
    """A column of the histories, the end of the file's name, and what the column is called."""

    column: str
    name: str
    label: str
    caption: str


def charts(of_set: Set) -> list[Chart]:
    """Return the curves of which a set's histories have at least one point."""
    groups = labelled(ranked(of_set))
    made = (_chart(of_set, groups, kind) for kind in _kinds(of_set))
    return [chart for chart in made if chart is not None]


def _kinds(of_set: Set) -> list[_Kind]:
    example = next((group.finished[0] for group in of_set.groups if group.finished), None)
    score = str((example and example.get("score_name")) or "score").replace("_", " ")
    better = "higher" if example and example.get("higher_is_better") else "lower"
    return [
        _Kind("train_loss", "training-loss", "training loss",
              "The loss on the training part after each epoch."),
        _Kind("test_score", "test-score", score,
              f"The {score} after each epoch; {better} is better."),
        _Kind("f_forward", "evaluations-epoch", "evaluations, forward",
              "Evaluations of the field in a forward pass, means over an epoch."),
        _Kind("f_backward", "evaluations-backward-epoch", "evaluations, backward",
              "Evaluations of the field in a backward pass, means over an epoch."),
    ]  # fmt: skip


def _chart(of_set: Set, groups: Sequence[tuple[str, Group]], kind: _Kind) -> Chart | None:
    first = groups
    if kind.column.startswith("f_"):  # those that choose their steps say more
        first = sorted(groups, key=lambda item: item[1].get("rtol") is None)
    drawn: list[Series] = []
    for label, group in first:
        points = curve(group.finished, kind.column)
        if points and any(point.y for point in points):  # by direct nothing is evaluated again
            drawn.append(Series(label, points, str(group.get("solver") or "")))
        if len(drawn) > MOST_SERIES:
            break
    if not drawn:
        return None
    left_out = (
        f" Shown are the {MOST_SERIES} of the best scores." if len(drawn) > MOST_SERIES else ""
    )
    series = tuple(drawn[:MOST_SERIES])
    values = [p.y if p.low is None else p.low for s in series for p in s.points]
    log = min(values) > 0 and max(p.y for s in series for p in s.points) > 20 * min(values)
    return Chart(
        f"{of_set.stem}-{kind.name}",
        of_set.task,
        f"{of_set.name}: {kind.label} after each epoch",
        kind.caption + BANDS + left_out,
        Axis("epoch"),
        Axis(kind.label, log=log),
        series,
    )


def curve(runs: Sequence[Result], column: str) -> tuple[Point, ...]:
    """Return the mean over runs of a column of their histories, and its range, epoch by epoch.

    An epoch that not all runs have reached is a mean of those that have.
    """
    values: dict[int, list[float]] = {}
    for run in runs:
        for row in run.get("history") or ():
            value = row.get(column)
            if isinstance(value, int | float):
                values.setdefault(int(row["epoch"]), []).append(float(value))
    cell = str(runs[0].get("cell") or "") if runs else ""
    return tuple(_of_seeds(epoch, values[epoch], cell) for epoch in sorted(values))


def _of_seeds(epoch: int, values: Sequence[float], cell: str) -> Point:
    low, high = min(values), max(values)
    if low == high:
        return Point(epoch, low, cell=cell)
    return Point(epoch, fmean(values), low, high, cell)
