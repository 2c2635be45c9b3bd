"""Work against precision: the solves of a run once more, over a ladder of tolerances or steps."""

from __future__ import annotations

import copy
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ode_core.api import solve
from ode_core.errors import SolveError
from ode_tasks import measure
from ode_tasks.settings import solver_of, solving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_core.protocols import GradientMethod, RunConfig, Solver
    from ode_tasks.settings import Settings

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_FACTORS = (1, 2, 4, 8, 16)
_MOST_STEPS = 1_000
_MOST_ROUNDS, _MOST_SECONDS = 5, 0.5


class Work(NamedTuple):
    """A solve in float64: the field, where and when it starts and ends, and what should come out.

    `exact` has the shape of `y0` with the number of times in front.
    """

    field: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    t: Sequence[float]
    exact: Tensor


class How(NamedTuple):
    """What solves: a solver, a gradient method, and `dt` for a solver that takes fixed steps."""

    solver: str | Solver
    gradient: str | GradientMethod
    dt: float | None


def how(config: RunConfig, settings: Settings) -> How | None:
    """Return how a run solves, None for a model that solves nothing; raises what `check` raises."""
    used = solving(config, settings)
    if used["solver"] is None:
        return None
    # Beside tolerances a step is the first one only.
    dt = used["dt"] if used["rtol"] is None else None
    return How(solver_of(used["solver"]), used["gradient"], dt)


def of_system(
    field: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t: Sequence[float], how: How | None
) -> list[dict[str, Any]]:
    """Return the ladder of a known field from `y0`, `[B, ...]`, over the times; none for None."""
    if how is None:
        return []
    y0 = y0.double()
    return ladder([Work(field, y0, t, measure.reference(field, y0, t))], how)


def of_model(model: nn.Module, how: How | None, *inputs: Any) -> list[dict[str, Any]]:
    """Return the ladder of the solves that a model makes on one batch; none if it solves nothing.

    It is none as well where the reference cannot be finished.
    """
    try:
        calls = measure.solves(model, *inputs)
        works = [_work(block, y0) for block, y0, _ in calls]
    except SolveError:
        return []
    return ladder(works, how) if works and how is not None else []


def _work(block: Any, y0: Tensor) -> Work:
    field, start = copy.deepcopy(block.field).double(), y0.double()
    return Work(field, start, block.t, measure.nearly_exact(field, start, block.t))


def ladder(works: Sequence[Work], how: How) -> list[dict[str, Any]]:
    """Return a row a rung: a tolerance, or a step around `how.dt` where that is given.

    A row has the relative RMS error of all works together, their starts left out, evaluations and
    accepted steps, the bytes that the backward pass by `how.gradient` would need, and the median
    seconds of `rounds` solves without gradients, the rungs in turn. All but the rung are None where
    it takes more than a thousand steps or breaks down. Timing ends after half a second.
    """
    rungs = _rungs(works[0], how.dt)
    rows = [rung | _measured(works, how, rung) for rung in rungs]
    whole = [row for row in rows if row["error"] is not None]
    times: list[list[float]] = [[] for _ in whole]
    start = perf_counter()
    for _ in range(_MOST_ROUNDS):
        for row, taken in zip(whole, times, strict=True):
            if perf_counter() - start < _MOST_SECONDS:
                with measure.timed(works[0].y0.device) as timer, torch.no_grad():
                    _solved(works, how, row)
                taken.append(timer.seconds)
    for row, taken in zip(whole, times, strict=True):
        row |= {"seconds": median(taken) if taken else None, "rounds": len(taken)}
    return rows


def _rungs(work: Work, dt: float | None) -> list[dict[str, float]]:
    if dt is None:
        return [{"rtol": tolerance, "atol": tolerance} for tolerance in TOLERANCES]
    span = abs(float(work.t[-1]) - float(work.t[0]))
    fewest = max(1, round(span / dt) // 4)
    return [{"dt": span / (fewest * factor)} for factor in _FACTORS]


def _measured(works: Sequence[Work], how: How, rung: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("error", "f_calls", "accepted", "memory_bytes"))
    row |= {"seconds": None, "rounds": 0}
    try:
        with torch.no_grad():
            solutions = _solved(works, how, rung)
        row["memory_bytes"] = _held(works, how, rung)
    except SolveError:
        return row
    pairs = zip(solutions, works, strict=True)
    parts = [(s.ys[1:].flatten(), work.exact[1:].flatten()) for s, work in pairs]
    row["error"] = measure.relative_rms(*(torch.cat([p[i] for p in parts]) for i in (0, 1)))
    row["f_calls"] = sum(int(s.stats.f_calls) for s in solutions)
    row["accepted"] = sum(int(s.stats.accepted) for s in solutions)
    return row


def _held(works: Sequence[Work], how: How, rung: dict[str, float]) -> int:
    """Return what the graph holds when states and parameters need gradients."""
    starts = [work.y0.clone().requires_grad_() for work in works]
    wanting = [work._replace(y0=y0) for work, y0 in zip(works, starts, strict=True)]
    fields = [work.field for work in works]
    weights = [
        p for f in fields if isinstance(f, nn.Module) for p in (*f.parameters(), *f.buffers())
    ]
    with torch.enable_grad():
        return measure.held_bytes(
            lambda: [s.ys for s in _solved(wanting, how, rung)], [*starts, *weights]
        )


def _solved(works: Sequence[Work], how: How, options: dict[str, Any]) -> list[Any]:
    return [
        solve(
            work.field,
            work.y0,
            work.t,
            solver=how.solver,
            gradient=how.gradient,
            max_steps=_MOST_STEPS,
            rtol=options.get("rtol"),
            atol=options.get("atol"),
            dt=options.get("dt"),
        )
        for work in works
    ]
