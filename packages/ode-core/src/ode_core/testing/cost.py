"""What a step of a solver and a state between steps cost beside f: counts, not times."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from ode_core import registry
from ode_core.api import solve
from ode_core.control import PIDController
from ode_core.errors import UnsupportedError
from ode_core.testing.counting import Counter
from ode_core.testing.subject import Subject

if TYPE_CHECKING:
    from ode_core.console import Output
    from ode_core.protocols import Solver
    from ode_core.testing.counting import Counts

STEP, OUTPUT, FURTHER = "step", "output", "further output"
STATE = (4, 64)

_STEPS, _SIZE = 4, 0.125
_WORD = 4
_COLUMNS = ("solver", "stepping", "of", "operations", "read", "written", "allocations",
            "allocated", "synchronisations", "status", "reason")  # fmt: skip


def cost(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Registered solvers; none: every one.")
    ] = None,
) -> None:
    """Count what steps do besides calling f: operations, words, allocations, synchronisations."""
    output: Output = ctx.obj
    rows = [row for name in (names or registry.solvers) for row in rows_of(name)]
    output.rows(rows, _COLUMNS)
    output.note(
        "read, written and allocated are in words, one of which is one entry of the state; an "
        "output is a state between steps, a further one the next in the same step"
    )


def rows_of(solver: str | Solver) -> list[dict[str, Any]]:
    """Return a row for each stepping of a solver and what is counted, or with a reason."""
    subject, rows = Subject.of(solver), []
    name = subject.name
    reason = subject.cause
    if not reason and not subject.differentiable:
        reason = "its steps are not made of torch operations"
    if reason:
        return [{"solver": name, "status": "skipped", "reason": reason}]
    for stepping in ("shared", "per_sample") if subject.per_sample else ("shared",):
        for of, counts in costs(subject, stepping).items():
            rows.append({"solver": name, "stepping": stepping, "of": of} | words(counts)
                        | {"status": "ok", "reason": ""})  # fmt: skip
    return rows


def words(counts: Counts) -> dict[str, float]:
    """Return counts with bytes as words of the state."""
    size = STATE[0] * STATE[1] * _WORD
    found = vars(counts)
    inner = ("read", "written", "allocated")
    return {k: round(v / size if k in inner else v, 2) for k, v in found.items()}


def costs(subject: Subject, stepping: str) -> dict[str, Counts]:
    """Return the counts of a step, of a state within it, and of the next state within the same.

    They are differences between solves of y' = -y from a float32 state [4, 64] without gradients,
    with accepted steps of one size; an adaptive solver estimates its error and a controller judges.
    """
    once = _counted(subject, stepping, _STEPS, 0)
    twice = _counted(subject, stepping, 2 * _STEPS, 0)
    one = _counted(subject, stepping, _STEPS, 1)
    two = _counted(subject, stepping, _STEPS, 2)
    return {
        STEP: (twice - once) / _STEPS,
        OUTPUT: (one - once) / _STEPS,
        FURTHER: (two - one) / _STEPS,
    }


def _counted(subject: Subject, stepping: str, steps: int, outputs: int) -> Counts:
    counter = Counter()
    y0: Any = torch.linspace(0.5, 1.5, STATE[0] * STATE[1]).view(STATE)
    f = counter.outside(lambda t, y: -y)
    if subject.pair:
        y0, f = tuple(y0.chunk(2, 1)), counter.outside(lambda t, y: (y[1], -y[0]))
    within = [(k + (j + 1.0) / (outputs + 1)) * _SIZE for k in range(steps) for j in range(outputs)]
    times = [0.0, *within, steps * _SIZE]
    options: dict[str, Any] = {"dt": _SIZE, "stepping": stepping}
    if subject.solver.adaptive:
        options |= {"rtol": 1e-3, "controller": PIDController(dt_min=_SIZE, dt_max=_SIZE)}
    with torch.no_grad(), warnings.catch_warnings(), counter.running():
        warnings.simplefilter("ignore")
        solution = solve(f, y0, times, solver=subject.solver, **options)
    taken = torch.as_tensor(solution.stats.accepted + solution.stats.rejected)
    if not bool((taken == steps).all()):
        raise UnsupportedError(f"{subject.name} takes no steps of one size, so none is counted")
    return counter.counts
