"""Tier hygiene: nothing is left behind, nothing said, and the same in gives the same out."""

from __future__ import annotations

import contextlib
import gc
import io
import warnings
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ode_core.testing.cases import Case, bending, distance, flat, turning
from ode_core.testing.results import check, demand
from ode_core.testing.snapshot import settings
from ode_core.testing.subject import Subject

_SOLVES = 10


@check("hygiene.global_state")
def global_state(subject: Subject) -> str | None:
    """The process's global settings are the same after a solve: dtype, random states, threads."""
    case = turning(pair=subject.pair)
    # What is imported or compiled on first use may draw a number.
    subject.solve(case.f, case.y0, [0.0, case.t1])
    before = settings()
    subject.solve(case.f, case.y0, [0.0, case.t1])
    changed = [name for name, value in settings().items() if value != before[name]]
    demand(
        not changed,
        f"a solve changed {', '.join(changed)}; use a local setting, or a generator of your own",
    )
    return None


@check("hygiene.quiet")
def quiet(subject: Subject) -> str | None:
    """A solve prints nothing."""
    case = turning(pair=subject.pair)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        subject.solve(case.f, case.y0, [0.0, case.t1])
    said = (out.getvalue() + err.getvalue()).strip()
    demand(not said, f"a solve printed {said[:60]!r}; say it in an error, or not at all")
    return None


@check("hygiene.warnings")
def no_warnings(subject: Subject) -> str | None:
    """An easy problem is solved without a warning."""
    case = turning(pair=subject.pair)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject.solve(case.f, case.y0, [0.0, case.t1])
    demand(
        not caught,
        f"an easy problem gave {len(caught)} warnings, the first: "
        f"{str(caught[0].message)[:100] if caught else ''}; keep warnings for what a user can mend",
    )
    return None


@check("hygiene.deterministic")
def deterministic(subject: Subject) -> str | None:
    """The same solve gives the same bits."""
    case = turning(pair=subject.pair)
    torch.manual_seed(1)
    one = subject.solve(case.f, case.y0, [0.0, case.t1]).ys
    torch.manual_seed(2)
    two = subject.solve(case.f, case.y0, [0.0, case.t1]).ys
    off = distance(one, two)
    demand(
        off == 0.0,
        f"the same solve again differs by {off:.1e}; draw no random numbers and keep nothing from "
        "one solve to the next",
    )
    return None


@check("hygiene.interleaved")
def interleaved(subject: Subject) -> str | None:
    """Two solves that take turns on one object give what each gives alone."""
    cases = (turning(pair=subject.pair), bending(pair=subject.pair))
    nodes = [0.0, 0.1, 0.25, 0.3, 0.5]
    alone = [_states(subject, case, nodes) for case in cases]
    walks = [subject.walk(case.f, case.y0, nodes) for case in cases]
    turns = [(a.step.y, b.step.y) for a, b in zip_longest(*walks)]
    off = max(distance(turns[i][k], alone[k][i]) for i in range(len(turns)) for k in (0, 1))
    demand(
        off == 0.0,
        f"two solves that take turns differ by {off:.1e} from each alone; the object may serve "
        "many at once, so keep a solve's data in its carry",
    )
    return None


def _states(subject: Subject, case: Case, nodes: list[float]) -> list[Tensor]:
    return [taken.step.y for taken in subject.walk(case.f, case.y0, nodes)]


@check("hygiene.inputs")
def inputs(subject: Subject) -> str | None:
    """The tensors that a user gives are not written to."""
    case = turning(pair=subject.pair)
    given: Any = tuple(x.clone() for x in case.y0) if subject.pair else case.y0.clone()
    times = torch.tensor([0.0, 0.5, case.t1], dtype=torch.float64)
    kept = flat(given).clone(), times.clone()
    subject.solve(case.f, given, times)
    demand(torch.equal(flat(given), kept[0]), "a solve wrote into y0; leave the state as it is")
    demand(torch.equal(times, kept[1]), "a solve wrote into the times; leave them as they are")
    return None


@check("hygiene.memory")
def memory(subject: Subject) -> str | None:
    """No tensors pile up from solve to solve."""
    case = turning(pair=subject.pair)
    for _ in range(2):
        subject.solve(case.f, case.y0, [0.0, case.t1])
    before = _alive()
    for _ in range(_SOLVES):
        subject.solve(case.f, case.y0, [0.0, case.t1])
    more = _alive() - before
    demand(
        more < _SOLVES,
        f"{more} more tensors are alive after {_SOLVES} solves; keep none on the object or in a "
        "cache that grows",
    )
    return None


def _alive() -> int:
    gc.collect()
    return sum(issubclass(type(x), Tensor) for x in gc.get_objects())


CHECKS = (
    global_state,
    quiet,
    no_warnings,
    deterministic,
    interleaved,
    inputs,
    memory,
)
