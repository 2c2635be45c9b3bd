"""The command `ode check`: the conformance kit for people and, with --json, for programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ode_core import registry
from ode_core.console import Output
from ode_core.errors import ArgumentError
from ode_core.testing.results import CheckResult
from ode_core.testing.runner import expected, run, select
from ode_core.testing.subject import Subject

_COLUMNS = ("solver", "id", "status", "seconds", "reason")


def check(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Registered solvers; none: every one.")
    ] = None,
    tier: Annotated[
        list[str] | None, typer.Option(help="Run this tier only; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--check", help="Run the check with this id only.")
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="ID=REASON of a check that must fail, and why; may be repeated."),
    ] = None,
) -> None:
    """Hold solvers to what the suite demands of them; status 1 if one of them falls short."""
    output: Output = ctx.obj
    checks = select(tier or None, only or None)
    reasons = expected(_pairs(expect or ()))
    subjects = [Subject.of(name) for name in (names or _available(output))]
    results: dict[str, list[CheckResult]] = {}
    for subject in subjects:
        results[subject.name] = list(run(subject, checks, reasons))
        output.note(f"{subject.name}: {_summary(results[subject.name])}")
    output.rows(
        [_row(name, result) for name, found in results.items() for result in found], _COLUMNS
    )
    if not all(result.ok for found in results.values() for result in found):
        raise typer.Exit(1)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for word, equals, _ in pairs:
        if not equals:
            raise ArgumentError(f"--expect takes ID=REASON, such as 'api.shapes=why'; got {word!r}")
    return {identity: reason for identity, _, reason in pairs}


def _available(output: Output) -> list[str]:
    for name, record in registry.solvers.items():
        if record.missing:
            output.note(f"{name}: left out, it needs pip install {' '.join(record.missing)}")
    return [name for name, record in registry.solvers.items() if not record.missing]


def _summary(results: Sequence[CheckResult]) -> str:
    counts = Counter(result.status for result in results)
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())


def _row(solver: str, result: CheckResult) -> dict[str, Any]:
    row = {"solver": solver} | dataclasses.asdict(result)
    return row | {"seconds": round(result.seconds, 3)}
