"""What may be claimed: the study's comparisons by a paired test over seeds."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from scipy.special import stdtr, stdtrit

from ode_tasks.experiments import planned
from ode_tasks.report.groups import Group, Set, sets
from ode_tasks.report.section import Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result

LEVEL = 0.05
ONE_SEED = "one seed: no difference is claimed"
_COLUMNS = ("comparison", "seeds", "difference", "95 % interval of each alone", "p", "verdict")


class Paired(NamedTuple):
    """Differences seed by seed: their mean, its 95 % interval and the p of a two-sided t-test.

    Interval and p are NaN for fewer than two seeds; p is 1 where all differences are 0.
    """

    seeds: int
    mean: float
    low: float
    high: float
    p: float


def paired(differences: Sequence[float]) -> Paired:
    """Test whether differences come from a distribution with mean 0; raises for none at all.

    Source: Student's paired t-test, with one degree of freedom less than there are pairs.
    """
    count, mean = len(differences), fmean(differences)
    if count < 2:
        return Paired(count, mean, math.nan, math.nan, math.nan)
    error = stdev(differences) / math.sqrt(count)
    if error == 0.0:
        return Paired(count, mean, mean, mean, 1.0 if mean == 0.0 else 0.0)
    reach = float(stdtrit(count - 1, 0.975)) * error
    p = 2.0 * float(stdtr(count - 1, -abs(mean) / error))
    return Paired(count, mean, mean - reach, mean + reach, p)


def adjusted(values: Sequence[float]) -> list[float]:
    """Return p values raised for their number, by Holm's method; NaN, no test, stays out of it.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    tested = sorted((p, place) for place, p in enumerate(values) if not math.isnan(p))
    raised, largest = list(values), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        raised[place] = largest
    return raised


def sections(results: Sequence[Result]) -> list[Section]:
    """Return the comparisons of each set of runs that belong to a study."""
    made = []
    for of_set in sets(results):
        study = planned(of_set.task, of_set.preset)
        compared = [
            (cell, against, paired(differences))
            for pair in (study.pairs if study is not None else ())
            if (cell := of_set.cell(pair.cell)) and (against := of_set.cell(pair.against))
            if (differences := _differences(cell, against))
        ]
        if compared:
            made.append(Section(of_set.task, (_table(of_set, compared),)))
    return made


def _differences(cell: Group, against: Group) -> list[float]:
    other = {run.get("seed"): run.number("score") for run in against.finished}
    pairs = ((run.number("score"), other.get(run.get("seed"))) for run in cell.finished)
    return [a - b for a, b in pairs if a is not None and b is not None]


def _table(of_set: Set, compared: Sequence[tuple[Group, Group, Paired]]) -> Table:
    example = compared[0][0].finished[0]
    score, higher = str(example.get("score_name")), bool(example.get("higher_is_better"))
    factor, unit = (100.0, " points") if score == "accuracy" else (1.0, "")
    raised = adjusted([test.p for _, _, test in compared])
    rows = []
    for (cell, against, test), p in zip(compared, raised, strict=True):
        low, high = factor * test.low, factor * test.high
        cells = (
            f"{_called(cell)} − {_called(against)}",
            str(test.seeds),
            f"{round(factor * test.mean, 6):+.3g}{unit}",  # scores are float32
            "" if test.seeds < 2 else f"{low:+.3g} to {high:+.3g}",
            "" if math.isnan(p) else f"{p:.2g}",
            _verdict(test, p, higher=higher),
        )
        rows.append(dict(zip(_COLUMNS, cells, strict=True)))
    return Table(
        f"{of_set.name}: what may be claimed",
        _COLUMNS,
        tuple(rows),
        (
            f"Differences in {score.replace('_', ' ')} between runs of the same seed, "
            f"{'higher' if higher else 'lower'} is better; Student's paired t-test, p raised by "
            f"Holm's method for {len(rows)} comparisons, a difference claimed below {LEVEL}.",
            "With few seeds only large differences can show: that none is shown does not say that "
            "there is none.",
        ),
    )


def _called(group: Group) -> str:
    gradient = group.get("gradient")
    return f"{group.name}, {gradient}" if gradient else group.name


def _verdict(test: Paired, p: float, *, higher: bool) -> str:
    if test.seeds < 2:
        return ONE_SEED
    if test.low == test.high == 0.0:
        return "equal in every seed"
    if p >= LEVEL:
        return "no difference shown"
    return "better" if (test.mean > 0) == higher else "worse"
