"""The kit within a plugin's own test suite: a decorator for pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ode_core.protocols import Solver
from ode_core.testing.results import EXPECTED_FAILURE, SKIPPED, TIERS, Check
from ode_core.testing.runner import empty, expected, run_one, select
from ode_core.testing.subject import Subject


@dataclass(frozen=True)
class BoundCheck:
    """One check of one solver; calling it makes the outcome that of the test that runs."""

    solver: str | Solver | Callable[[], Solver]
    check: Check
    expected_failure: str | None = None

    def __call__(self) -> None:
        """Run the check: pass, skip, fail, or fail as expected."""
        result = run_one(self.check, subject_of(self.solver), self.expected_failure)
        if result.status == SKIPPED:
            pytest.skip(result.reason)
        if result.status == EXPECTED_FAILURE:
            pytest.xfail(result.reason)
        if not result.ok:
            pytest.fail(f"{result.id}: {result.reason}", pytrace=False)


@dataclass(frozen=True)
class BoundTier:
    """The demand that something in a tier applies to a solver."""

    solver: str | Solver | Callable[[], Solver]
    tier: str
    checks: tuple[Check, ...]

    def __call__(self) -> None:
        """Fail where every check of the tier is skipped."""
        reason = empty(self.tier, subject_of(self.solver), self.checks)
        if reason:
            pytest.fail(reason, pytrace=False)


def subject_of(solver: str | Solver | Callable[[], Solver]) -> Subject:
    """Return the subject behind a name, an object, or a function that makes an object."""
    makes = isinstance(solver, type) or (callable(solver) and not hasattr(solver, "step"))
    given: Any = solver
    return Subject.of(given() if makes else given)


def conformance(
    solver: str | Solver | Callable[[], Solver],
    *,
    expected_failures: Mapping[str, str] | None = None,
    tiers: Sequence[str] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Turn a test that takes `check` and calls it into one test for each check of the kit.

    Args:
        solver: a registered name, a Solver, or a function that makes one.
        expected_failures: id of a check -> why it fails; one that passes fails its test.
        tiers: those to run (default: all).

    Raises:
        ArgumentError: for an id or tier that does not exist.

    """
    made: Callable[[Callable[..., Any]], Any] = pytest.mark.parametrize(
        "check", bound(solver, expected_failures, tiers)
    )
    return made


def bound(
    solver: str | Solver | Callable[[], Solver],
    expected_failures: Mapping[str, str] | None = None,
    tiers: Sequence[str] | None = None,
    prefix: str = "",
) -> list[Any]:
    """Return pytest parameters: every check, and every tier's demand that something ran."""
    reasons, checks = expected(expected_failures), select(tiers)
    each = [
        pytest.param(BoundCheck(solver, check, reasons.get(check.id)), id=f"{prefix}{check.id}")
        for check in checks
    ]
    ran = [
        pytest.param(BoundTier(solver, tier, checks), id=f"{prefix}{tier}.ran")
        for tier in TIERS
        if tier in (tiers or TIERS)
    ]
    return [*each, *ran]
