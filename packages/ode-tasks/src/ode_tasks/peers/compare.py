"""Everyone on one work: rows with times, counts, errors and ratios, or with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ode_core.errors import OdeError, UnsupportedError
from ode_tasks import measure
from ode_tasks.benchmark.cell import FAILED, OK, SKIPPED
from ode_tasks.peers.contest import BACKWARD, EXACT, SUITE
from ode_tasks.peers.reference import truth
from ode_tasks.peers.rounds import Clock, threads, timed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ode_tasks.peers.contest import Outcome, Peer, Prepared, Variant
    from ode_tasks.peers.rounds import Timed
    from ode_tasks.peers.works import Posed, Work

Row = dict[str, Any]

_FIELD = "f alone"


@dataclass(frozen=True)
class Settings:
    """How everyone is measured: rounds, threads and the device."""

    rounds: int
    threads: int
    device: str


class _Entrant(NamedTuple):
    """A solve that was prepared and has been run once: its first row, its call, its outcome."""

    row: Row
    variant: Variant
    prepared: Prepared
    outcome: Outcome


def compare(work: Work, direction: str, peers: Sequence[Peer], settings: Settings) -> Iterator[Row]:
    """Yield one row for each way in which a peer solves the work, in the order of the peers.

    Times are medians over interleaved rounds, in seconds. `floor_seconds` is the time of the calls
    of f alone (and of its vector-Jacobian products in the backward pass), `over_floor` the time
    over that, `step_overhead` what is left of it for each attempted step. `times_suite` is the time
    over that of the suite with the same kind of gradient: above 1, the suite is faster;
    `times_suite_a_call` is the same of times by call of f, which leaves the choice of steps out.
    `error` is the relative root mean square error of the states, `gradient_error` that of the
    gradient.
    """
    with threads(settings.threads):
        posed = work.posed(settings.device)
        rows: list[Row] = []
        entrants: list[_Entrant] = []
        for peer in peers:
            for item in _entered(peer, posed, direction, settings):
                if isinstance(item, _Entrant):
                    entrants.append(item)
                    rows.append(item.row)
                else:
                    rows.append(item)
        if entrants:
            _measure(posed, direction, entrants, settings)
    yield from rows


def _entered(
    peer: Peer, posed: Posed, direction: str, settings: Settings
) -> Iterator[_Entrant | Row]:
    work = posed.work
    row = {
        "work": work.name,
        "summary": work.summary,
        "grows": work.grows,
        "size": work.size,
        "direction": direction,
        "device": settings.device,
        "threads": settings.threads,
        "peer": peer.name,
        "variant": "",
    }
    if direction == BACKWARD and not work.backward:
        yield row | {"status": SKIPPED, "reason": f"{work.name} is solved forwards only"}
        return
    if peer.missing:
        yield row | {"status": SKIPPED, "reason": f"not installed: pip install {peer.missing}"}
        return
    try:
        variants = peer.variants(work, direction)
    except UnsupportedError as error:
        yield row | {"status": SKIPPED, "reason": str(error)}
        return
    for variant in variants:
        own = row | {"variant": variant.name, "gradient_kind": variant.kind, "base": variant.base}
        try:
            prepared = peer.prepare(posed, variant, direction, settings.threads)
            clock = Clock(settings.device, settings.threads)
            if prepared.compiles:
                own["compile_seconds"] = clock.seconds(prepared.run)
            outcome = prepared.outcome()
        except UnsupportedError as error:
            yield own | {"status": SKIPPED, "reason": str(error)}
        except (OdeError, RuntimeError, AssertionError, ValueError, TypeError) as error:
            # A peer's failure is a result; it must not end the comparison.
            yield own | {"status": FAILED, "reason": f"{type(error).__name__}: {error}"[:300]}
        else:
            yield _Entrant(own, variant, prepared, outcome)


def _measure(
    posed: Posed, direction: str, entrants: Sequence[_Entrant], settings: Settings
) -> None:
    """Time the entrants and complete their rows."""
    work = posed.work
    clock = Clock(settings.device, settings.threads)
    calls = {str(i): entrant.prepared.run for i, entrant in enumerate(entrants)}
    calls["forward"] = lambda: _evaluated(posed)
    if direction == BACKWARD:
        calls["backward"] = lambda: _pulled_back(posed)
    times = timed(calls, settings.rounds, clock)
    exact = None if work.grows else truth(posed, gradient=direction == BACKWARD)
    f_seconds = times["forward"].median
    pull_seconds = times["backward"].median if direction == BACKWARD else 0.0
    for i, entrant in enumerate(entrants):
        row, outcome, found = entrant.row, entrant.outcome, times[str(i)]
        row |= _costs(entrant, found, direction, (f_seconds, pull_seconds))
        row["clock"] = clock.name
        if exact is not None:
            row["error"], row["gradient_error"] = exact.errors(outcome)
        short = len(found.rounds) < settings.rounds
        row |= {"status": OK, "reason": "so slow that it was measured once" if short else ""}
    _against_the_suite(entrants)


def _costs(
    entrant: _Entrant, found: Timed, direction: str, field: tuple[float, float]
) -> dict[str, Any]:
    outcome, (f_seconds, pull_seconds) = entrant.outcome, field
    columns: dict[str, Any] = {
        "seconds": found.median,
        "rounds": len(found.rounds),
        "spread": (max(found.rounds) - min(found.rounds)) / found.median,
        "f_forward": outcome.f_forward,
        "f_backward": outcome.f_backward,
        "steps": outcome.steps,
        "f_seconds": f_seconds,
    }
    floor = outcome.f_forward * f_seconds
    if direction == BACKWARD and entrant.variant.kind == EXACT:
        floor = outcome.f_forward * pull_seconds
    elif direction == BACKWARD:
        floor += (outcome.f_backward or 0) * pull_seconds
    columns["floor_seconds"] = floor
    columns["over_floor"] = found.median / floor
    if outcome.steps:
        columns["step_overhead"] = (found.median - floor) / outcome.steps
    return columns


def _against_the_suite(entrants: Sequence[_Entrant]) -> None:
    bases = {
        entrant.variant.kind: entrant.row
        for entrant in entrants
        if entrant.row["peer"] == SUITE and entrant.variant.base
    }
    for entrant in entrants:
        base = bases.get(entrant.variant.kind)
        if base is not None:
            row, calls = entrant.row, entrant.row["f_forward"]
            row["times_suite"] = row["seconds"] / base["seconds"]
            row["times_suite_a_call"] = row["times_suite"] * base["f_forward"] / calls


def _evaluated(posed: Posed) -> torch.Tensor:
    with torch.no_grad():
        slope: torch.Tensor = posed.field(posed.t[0], posed.y0)
    return slope


def _pulled_back(posed: Posed) -> tuple[torch.Tensor, ...]:
    y = posed.y0.detach().requires_grad_()
    slope = posed.field(posed.t[0], y)
    return torch.autograd.grad(slope, [y, *posed.field.parameters()], posed.y0)


def versions() -> dict[str, str]:
    """Return the versions of Python, torch, the suite and every peer that is installed."""
    names = ("ode-core", "torchdiffeq", "torchode", "jax", "diffrax", "scipy", "numpy")
    return measure.versions(names)
