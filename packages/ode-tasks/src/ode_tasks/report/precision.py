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
    from collections.abc import Iterable, Sequence

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


class Measured(NamedTuple):
    """A run with its ladder, which is unpacked once."""

    run: Result
    rungs: list[dict[str, Any]]


def charts(all_sets: Sequence[Set]) -> list[Chart]:
    """Return performance profiles over all tasks, and error and memory against cost of each set."""
    made: list[Chart | None] = []
    problems: dict[str, list[dict[str, float]]] = {cost.column: [] for cost in _COSTS}
    for of_set in all_sets:
        runs = [run for group in of_set.groups for run in group.finished if run.get("solver")]
        found = [Measured(run, run.get("work_precision") or []) for run in runs]
        for cost in _COSTS:
            used = same_machine(found) if cost.column == "seconds" else found
            ladders = by_solver(used, cost.column)
            problems[cost.column] += _problems(ladders)
            made.append(_work(of_set, used, cost, ladders))
        made.append(_memory(of_set, found))
    profiles = [_profile(problems[cost.column], cost) for cost in _COSTS]
    return [chart for chart in (*profiles, *made) if chart is not None]


def _work(
    of_set: Set, found: Sequence[Measured], cost: _Cost, ladders: dict[str, list[Rung]]
) -> Chart | None:
    runs = [measured.run for measured in found]
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


def by_solver(found: Iterable[Measured], column: str) -> dict[str, list[Rung]]:
    """Return each solver's ladder, medians over its runs, the coarsest rung first.

    A rung that one of the runs did not finish is left out.
    """
    ladders: dict[str, dict[tuple[float, str], list[tuple[float, float, str]]]] = {}
    broken: set[tuple[str, float, str]] = set()
    for run, rungs in found:
        solver, cell = str(run.get("solver")), str(run.get("cell") or "")
        for row in rungs:
            rung = (row["dt"], "dt") if "dt" in row else (row["rtol"], "rtol")
            cost, error = row.get(column), row.get("error")
            if cost and error:
                ladders.setdefault(solver, {}).setdefault(rung, []).append((cost, error, cell))
            else:
                broken.add((solver, *rung))
    return {
        solver: [
            Rung(median(c for c, _, _ in rows), median(e for _, e, _ in rows), rows[0][2],
                 f"{kind} {size:.3g}")
            for (size, kind), rows in sorted(of_solver.items(), reverse=True)
            if (solver, size, kind) not in broken
        ]
        for solver, of_solver in ladders.items()
    }  # fmt: skip


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


def same_machine(found: Sequence[Measured]) -> list[Measured]:
    """Return the runs on the machine that most of them ran on: no others' times compare."""
    machine = most_common_machine(measured.run for measured in found)
    return [measured for measured in found if measured.run.get("machine") == machine]


def most_common_machine(runs: Iterable[Result]) -> Any:
    """Return the machine that most of the runs ran on."""
    counted = Counter(run.get("machine") for run in runs)
    return counted.most_common(1)[0][0] if counted else None


def _memory(of_set: Set, found: Sequence[Measured]) -> Chart | None:
    """Return the memory against depth, a line for each gradient of the solver with most of them."""
    gradients: dict[str, set[str]] = {}
    for run, rungs in found:
        if rungs:
            gradients.setdefault(str(run.get("solver")), set()).add(str(run.get("gradient")))
    if not gradients:
        return None
    widest = max(gradients, key=lambda solver: len(gradients[solver]))
    several = len(gradients[widest]) > 1
    lines: dict[str, list[Measured]] = {}
    for measured in found:
        if measured.run.get("solver") == widest or not several:
            name = str(measured.run.get("gradient" if several else "solver"))
            lines.setdefault(name, []).append(measured)
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


def _depths(found: Sequence[Measured]) -> tuple[Point, ...]:
    held: dict[float, list[float]] = {}
    for _, rungs in found:
        for row in rungs:
            if row.get("f_calls") and row.get("memory_bytes"):
                held.setdefault(float(row["f_calls"]), []).append(row["memory_bytes"] / _MIB)
    cell = str(found[0].run.get("cell") or "")
    return tuple(Point(depth, median(held[depth]), cell=cell) for depth in sorted(held))


def _problems(ladders: dict[str, list[Rung]]) -> list[dict[str, float]]:
    """Return what each solver costs to reach each target that one of them reaches."""
    costs = ({n: to_reach(rungs, target) for n, rungs in ladders.items()} for target in TARGETS)
    return [of_target for of_target in costs if any(map(math.isfinite, of_target.values()))]


def _profile(problems: Sequence[dict[str, float]], cost: _Cost) -> Chart | None:
    """Return the performance profile over all tasks.

    A problem is a task and an error to reach; a solver's share is that of the problems in which it
    costs at most so many times what the cheapest costs. Source: Dolan and Moré, "Benchmarking
    optimization software with performance profiles", 2002.
    """
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
