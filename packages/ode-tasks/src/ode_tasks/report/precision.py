"""Work against precision, task by task and over all of them, and memory against depth."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_tasks.report.chart import OVER_ALL, Axis, Chart, Point, Series, limited
from ode_tasks.report.labels import step
from ode_tasks.report.rows import scientific

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ode_tasks.report.groups import Set
    from ode_tasks.report.rows import Result

TARGETS = (1e-2, 1e-3, 1e-4, 1e-5)
_RANKED_AT = 1e-4
_MIB = 2**20


class _Cost(NamedTuple):
    """A column of a ladder, the same of a run, the end of a file's name, and words for it."""

    column: str
    of_run: str
    name: str
    label: str
    note: str


_COSTS = (
    _Cost("f_calls", "f_forward", "error-evaluations", "evaluations in a solve", ""),
    _Cost("seconds", "", "error-time", "seconds a solve",
          " Seconds are medians of solves without gradients, one thread."),
)  # fmt: skip


class Rung(NamedTuple):
    """One tolerance or step of a solver: what it costs, and the error it leaves."""

    cost: float
    error: float
    cell: str
    note: str


def charts(of_set: Set) -> list[Chart]:
    """Return error against evaluations, error against time and memory against depth of a set."""
    runs = [run for group in of_set.groups for run in group.finished if run.get("solver")]
    made = [_work(of_set, runs, cost) for cost in _COSTS]
    return [chart for chart in (*made, _memory(of_set, runs)) if chart is not None]


def _work(of_set: Set, runs: Sequence[Result], cost: _Cost) -> Chart | None:
    if cost.column == "seconds":
        runs = same_machine(runs)
    ladders = by_solver(runs, cost.column)
    swept = bool(ladders)
    if not swept and cost.of_run:
        ladders = _cells(runs, cost.of_run)
    if not ladders:
        return None
    order = sorted(ladders, key=lambda name: to_reach(ladders[name], _RANKED_AT))
    drawn = [
        Series(name, tuple(Point(r.cost, r.error, cell=r.cell, note=r.note) for r in ladders[name]),
               name)
        for name in order
    ]  # fmt: skip
    series, left_out = limited(drawn, "the cheapest to an error of 1e-4 first")
    return Chart(
        f"{of_set.stem}-{cost.name}",
        of_set.task,
        f"{of_set.name}: error against {'time' if cost.column == 'seconds' else 'evaluations'}",
        "Lower and further left is better. " + _what(runs, swept=swept) + cost.note + left_out,
        Axis(cost.label if swept else "evaluations in a forward pass", log=True),
        Axis("relative error", log=True),
        series,
    )


def _what(runs: Sequence[Result], *, swept: bool) -> str:
    if not swept:
        return "A point is a cell; evaluations are means over the last epoch."
    of_system = any(run.get("field_error") is not None for run in runs)
    problem = "the task's true system" if of_system else "the trained network on one batch"
    return (
        f"A line is a solver on {problem} in float64, over tolerances or steps, its error against "
        "a solve to 1e-10."
    )


def by_solver(runs: Iterable[Result], column: str) -> dict[str, list[Rung]]:
    """Return each solver's ladder, medians over its runs, the coarsest rung first.

    A rung that one of the runs did not finish is left out.
    """
    found: dict[str, dict[tuple[float, str], list[tuple[float, float, str]]]] = {}
    broken: set[tuple[str, float, str]] = set()
    for run in runs:
        solver = str(run.get("solver"))
        for row in run.get("work_precision") or ():
            rung = _rung(row)
            cost, error = row.get(column), row.get("error")
            if cost and error:
                measured = (float(cost), float(error), str(run.get("cell") or ""))
                found.setdefault(solver, {}).setdefault(rung, []).append(measured)
            else:
                broken.add((solver, *rung))
    return {
        solver: [
            Rung(median(c for c, _, _ in rows), median(e for _, e, _ in rows), rows[0][2], rung[1])
            for rung, rows in sorted(rungs.items(), reverse=True)
            if (solver, *rung) not in broken
        ]
        for solver, rungs in found.items()
    }


def _rung(row: dict[str, Any]) -> tuple[float, str]:
    size, name = (row["dt"], "dt") if "dt" in row else (row["rtol"], "rtol")
    return float(size), f"{name} {size:.3g}"


def _cells(runs: Sequence[Result], column: str) -> dict[str, list[Rung]]:
    """Return the runs themselves as ladders, where nothing was solved again."""
    found: dict[str, list[Rung]] = {}
    for run in runs:
        cost, error = run.number(column), run.number("solver_error")
        if cost and error and cost > 0 and error > 0:
            rung = Rung(cost, error, str(run.get("cell") or ""), step(run))
            found.setdefault(str(run.get("solver")), []).append(rung)
    return {name: sorted(rungs) for name, rungs in found.items()}


def to_reach(rungs: Sequence[Rung], error: float) -> float:
    """Return the cost at which a ladder reaches an error, infinite where it does not.

    Between two rungs it is on the straight line in logarithms; nothing is read off beyond the ends,
    so that a ladder whose coarsest rung is finer costs what that costs.
    """
    best = min((rung.cost for rung in rungs if rung.error <= error), default=math.inf)
    for coarse, fine in pairwise(rungs):
        if coarse.error > error >= fine.error:
            share = math.log(coarse.error / error) / math.log(coarse.error / fine.error)
            best = min(best, coarse.cost * (fine.cost / coarse.cost) ** share)
    return best


def same_machine(runs: Sequence[Result]) -> list[Result]:
    """Return the runs on the machine that most of them ran on: no others' times compare."""
    counted = Counter(run.get("machine") for run in runs)
    machine = counted.most_common(1)[0][0] if counted else None
    return [run for run in runs if run.get("machine") == machine]


def _memory(of_set: Set, runs: Sequence[Result]) -> Chart | None:
    """Return the memory against depth, a line for each gradient of the solver with most of them."""
    gradients: dict[str, set[str]] = {}
    for run in runs:
        if run.get("work_precision"):
            gradients.setdefault(str(run.get("solver")), set()).add(str(run.get("gradient")))
    if not gradients:
        return None
    widest = max(gradients, key=lambda solver: len(gradients[solver]))
    several = len(gradients[widest]) > 1
    key: Callable[[Result], str] = lambda run: str(run.get("gradient" if several else "solver"))  # noqa: E731
    lines: dict[str, list[Result]] = {}
    for run in runs:
        if run.get("solver") == widest or not several:
            lines.setdefault(key(run), []).append(run)
    drawn = []
    for name, of_line in lines.items():
        points = _depths(of_line)
        if points:
            drawn.append(Series(name, points, "" if several else name))
    drawn.sort(key=lambda series: series.points[-1].y)
    series, left_out = limited(drawn, "those that hold least first")
    if not series:
        return None
    whose = f"by {widest}" if several else f"by {' or '.join(gradients[widest])}"
    return Chart(
        f"{of_set.stem}-memory-depth",
        of_set.task,
        f"{of_set.name}: memory against depth, {whose}",
        "Bytes that a solve in float64 holds for its backward pass, states and parameters not "
        f"counted, against its evaluations.{left_out}",
        Axis("evaluations in a solve", log=True),
        Axis("memory, MiB", log=True),
        series,
    )


def _depths(runs: Sequence[Result]) -> tuple[Point, ...]:
    found: dict[float, list[float]] = {}
    for run in runs:
        for row in run.get("work_precision") or ():
            if row.get("f_calls") and row.get("memory_bytes"):
                found.setdefault(float(row["f_calls"]), []).append(row["memory_bytes"] / _MIB)
    cell = str(runs[0].get("cell") or "")
    return tuple(Point(depth, median(found[depth]), cell=cell) for depth in sorted(found))


def profiles(all_sets: Sequence[Set]) -> list[Chart]:
    """Return performance profiles over all tasks, by evaluations and by time.

    A problem is a task and an error to reach; a solver's share is that of the problems in which it
    costs at most so many times what the cheapest costs. Source: Dolan and Moré, "Benchmarking
    optimization software with performance profiles", 2002.
    """
    made = (_profile(all_sets, cost) for cost in _COSTS)
    return [chart for chart in made if chart is not None]


def _profile(all_sets: Sequence[Set], cost: _Cost) -> Chart | None:
    problems = []
    for of_set in all_sets:
        runs = [run for group in of_set.groups for run in group.finished if run.get("solver")]
        ladders = by_solver(same_machine(runs) if cost.column == "seconds" else runs, cost.column)
        for target in TARGETS:
            costs = {name: to_reach(rungs, target) for name, rungs in ladders.items()}
            if any(map(math.isfinite, costs.values())):
                problems.append(costs)
    shares = ratios(problems)
    if len(problems) < 2 or len(shares) < 2:
        return None
    order = sorted(shares, key=lambda name: -sum(1 / ratio for ratio in shares[name]))
    end = 2 * max(ratio for found in shares.values() for ratio in found)
    drawn = [
        Series(name, _steps(shares[name], len(problems), end), name, stepped=True) for name in order
    ]
    series, left_out = limited(drawn, "the best first")
    what = "time" if cost.column == "seconds" else "evaluations"
    return Chart(
        f"profile-{cost.name.removeprefix('error-')}",
        OVER_ALL,
        f"Performance profile by {what}",
        f"Of {len(problems)} problems, each a task and an error to reach ("
        f"{', '.join(scientific(target) for target in TARGETS)}), the share that a solver solves "
        f"at no more than so many times the {what} of the best; one that was not run or did not "
        f"get there has not solved it. Higher and further left is better.{left_out}",
        Axis(f"times the {what} of the best", log=True),
        Axis("share of problems"),
        series,
    )


def ratios(problems: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Return, for each solver, its finite costs over the least of the problem, in rising order."""
    found: dict[str, list[float]] = {name: [] for costs in problems for name in costs}
    for costs in problems:
        least = min(costs.values())
        for name, cost in costs.items():
            if math.isfinite(cost):
                found[name].append(cost / least)
    return {name: sorted(values) for name, values in found.items() if values}


def _steps(found: Sequence[float], count: int, end: float) -> tuple[Point, ...]:
    points = [Point(1.0, 0.0)]
    points += [Point(ratio, place / count) for place, ratio in enumerate(found, 1)]
    return (*points, Point(end, len(found) / count))
