"""Which of a task's ways to take: what no other beats in score, time and memory, and a sentence."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from ode_tasks.report.chart import Axis, Chart, Point, Series
from ode_tasks.report.groups import spread
from ode_tasks.report.labels import labelled
from ode_tasks.report.methods import mebibytes
from ode_tasks.report.precision import most_common_machine
from ode_tasks.report.verdict import LEVEL, adjusted, paired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.groups import Group, Set

ALIKE = 0.02
"""Scores within this share of the best are as good for the choice of a way to take; so are those
whose seeds are not all worse than the worst seed of the best."""

_MUCH_LESS = 0.5
_NAMED = 4


class Way(NamedTuple):
    """A group with its means: the score, the seconds of an epoch and the MiB of a step."""

    label: str
    group: Group
    score: float
    seconds: float
    memory: float


class Choice(NamedTuple):
    """What to take of a set: in words, the way, those that no other beats, and how many all are."""

    sentences: tuple[str, ...]
    best: Way
    front: tuple[Way, ...]
    number: int


def ranked(of_set: Set) -> list[Group]:
    """Return the groups with an outcome, the best mean score first, those without one last."""
    higher = is_higher_better(of_set)

    def place(group: Group) -> float:
        scores = group.values("score")
        return math.inf if not scores else -fmean(scores) if higher else fmean(scores)

    return sorted((group for group in of_set.groups if group.finished), key=place)


def is_higher_better(of_set: Set) -> bool:
    """Return whether a higher score is better."""
    return any(run.get("higher_is_better") for group in of_set.groups for run in group.finished)


def ways(of_set: Set) -> list[Way]:
    """Return the groups that have a score, the best first; what else is unknown is NaN."""
    found = []
    for label, group in labelled(ranked(of_set)):
        if group.values("score"):
            means = (_mean(group, name) for name in ("score", "epoch_seconds", "memory_bytes"))
            score, seconds, memory = means
            found.append(Way(label, group, score, seconds, memory / 2**20))
    return found


def _mean(group: Group, name: str) -> float:
    values = group.values(name)
    return fmean(values) if values else math.nan


def front(found: Sequence[Way], *, higher: bool) -> list[Way]:
    """Return the ways that no other is as good as in all, and better than in one.

    What is unknown of a way counts as infinitely much.
    """
    costs = [
        tuple(math.inf if math.isnan(v) else v for v in (-w.score if higher else w.score, *w[3:]))
        for w in found
    ]
    order = sorted(range(len(found)), key=lambda place: costs[place])
    kept: list[int] = []
    for place in order:  # in this order only one that was kept can beat it
        if not any(_beats(costs[other], costs[place]) for other in kept):
            kept.append(place)
    return [found[place] for place in kept]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def choice(of_set: Set) -> Choice | None:
    """Return what to take of a set, None where nothing has a score."""
    found = ways(of_set)
    if not found:
        return None
    higher = is_higher_better(of_set)
    alike = [way for way in found if _alike(way, found[0], higher=higher)]
    best = min(alike, key=lambda way: (math.isnan(way.seconds), way.seconds))
    return Choice(
        (_take(of_set, best, found, alike), *_claims(best, alike), *_sparing(best, alike)),
        best,
        tuple(front(found, higher=higher)),
        len(found),
    )


def _alike(way: Way, best: Way, *, higher: bool) -> bool:
    if abs(way.score - best.score) <= ALIKE * abs(best.score):
        return True
    own, of_best = way.group.values("score"), best.group.values("score")
    if min(len(own), len(of_best)) < 2:  # one seed says nothing of another's
        return False
    return max(own) >= min(of_best) if higher else min(own) <= max(of_best)


def _take(of_set: Set, best: Way, found: Sequence[Way], alike: Sequence[Way]) -> str:
    group = best.group
    name = str(group.get("score_name") or group.finished[0].get("score_name") or "score")
    parts = [f"{name.replace('_', ' ')} {group.text('score', '.3g')}"]
    if not math.isnan(best.seconds):
        parts.append(f"{group.text('epoch_seconds', '.3g')} s an epoch")
    if not math.isnan(best.memory):
        parts.append(mebibytes(group))
    seeds = len(group.finished)
    why = (
        f"of {len(alike)} with scores within {ALIKE:.0%} of the best, or a seed as good as one of "
        "its, it took the least time"
        if len(alike) > 1
        else f"no other of {len(found)} has a score within {ALIKE:.0%} of it, or such a seed"
        if len(found) > 1
        else "it is the only one with a score"
    )
    return (
        f"For {of_set.name} take {best.label}: {', '.join(parts)}, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; {why}."
    )


def _claims(best: Way, alike: Sequence[Way]) -> list[str]:
    """Return what may be said of its time beside the others': a paired test says whether."""
    others = [way for way in alike if way is not best]
    tested = []
    for way in others:
        differences = log_ratios(way.group, best.group)
        if len(differences) > 1:
            tested.append((way.label, paired(differences)))
    if not others:
        return []
    if not tested:
        return ["No two seeds in common: that it is faster is not claimed."]
    raised = adjusted([test.p for _, test in tested])
    slower = [
        (label, math.exp(test.mean))
        for (label, test), p in zip(tested, raised, strict=True)
        if p < LEVEL and test.mean > 0
    ]
    how = f"paired t-test on log seconds of the same seeds, Holm for {len(tested)}, p < {LEVEL}"
    if not slower:
        return [f"That it is faster than one of them is not shown ({how})."]
    slower.sort(key=lambda item: item[1])
    names = ", ".join(f"{label} ({factor:.3g} times)" for label, factor in slower[:_NAMED])
    more = f" and {len(slower) - _NAMED} more" if len(slower) > _NAMED else ""
    return [f"It is faster than {names}{more} ({how})."]


def log_ratios(slow: Group, fast: Group) -> list[float]:
    """Return the logarithms of one group's seconds over another's, seed by seed, on one machine."""
    machine = most_common_machine([*slow.finished, *fast.finished])
    seconds = [
        {
            run.get("seed"): value
            for run in group.finished
            if run.get("machine") == machine and (value := run.number("epoch_seconds"))
        }
        for group in (slow, fast)
    ]
    shared = [seed for seed in seconds[0] if seed in seconds[1]]
    return [math.log(seconds[0][seed] / seconds[1][seed]) for seed in shared]


def _sparing(best: Way, alike: Sequence[Way]) -> list[str]:
    known = [way for way in alike if not math.isnan(way.memory)]
    least = min(known, key=lambda way: way.memory, default=best)
    if math.isnan(best.memory) or not least.memory < _MUCH_LESS * best.memory:
        return []
    own, other = mebibytes(least.group), mebibytes(best.group)
    return [f"Where memory is short take {least.label}: {own} in place of {other}."]


def charts(of_set: Set) -> list[Chart]:
    """Return score against time, with those apart that no other beats, memory counted as well."""
    found = [way for way in ways(of_set) if way.seconds > 0]
    if len(found) < 2:
        return []
    best = front(found, higher=is_higher_better(of_set))
    labels = {way.label for way in best}
    rest = [way for way in found if way.label not in labels]
    score = str(found[0].group.finished[0].get("score_name") or "score").replace("_", " ")
    higher = is_higher_better(of_set)
    scores = [way.score for way in found]
    log = not higher and min(scores) > 0 and max(scores) > 20 * min(scores)
    drawn = [Series("no other beats it", tuple(map(_point, best)), joined=False)]
    if rest:
        drawn.append(Series("beaten", tuple(map(_point, rest)), joined=False))
    return [
        Chart(
            f"{of_set.stem}-pareto",
            of_set.task,
            f"{of_set.name}: {score} against time",
            f"{'Higher' if higher else 'Lower'} and further left is better. A way is beaten where "
            "another is as good in score, time and memory and better in one. Means over seeds.",
            Axis("seconds an epoch", log=True),
            Axis(score, log=log),
            tuple(drawn),
        )
    ]


def _point(way: Way) -> Point:
    scores = way.group.values("score")
    low, high = min(scores), max(scores)
    ends: tuple[float | None, float | None] = (None, None) if low == high else (low, high)
    memory = "" if math.isnan(way.memory) else f", {spread([way.memory], '.3g', ' MiB')}"
    cell = str(way.group.finished[0].get("cell") or "")
    return Point(way.seconds, way.score, ends[0], ends[1], cell, f"{way.label}{memory}")
