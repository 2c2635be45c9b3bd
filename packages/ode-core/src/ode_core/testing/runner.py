"""Running the checks: one result for each, whatever the solver does."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ode_core.errors import ArgumentError
from ode_core.protocols import Solver
from ode_core.testing.checks import CHECKS
from ode_core.testing.results import (
    EXPECTED_FAILURE,
    FAILED,
    PASSED,
    SKIPPED,
    TIERS,
    UNEXPECTED_PASS,
    Check,
    CheckError,
    CheckResult,
    attempted,
)
from ode_core.testing.snapshot import guarded
from ode_core.testing.subject import Subject


def check_solver(
    solver: str | Solver,
    *,
    expected_failures: Mapping[str, str] | None = None,
    tiers: Sequence[str] | None = None,
    checks: Sequence[str] | None = None,
) -> list[CheckResult]:
    """Run the checks on a solver and return what came of each.

    Args:
        solver: a registered name, whose record is held to what it claims, or a Solver object.
        expected_failures: id of a check -> why it fails. Such a check must fail: one that passes is
            reported as "unexpected_pass" and is not ok.
        tiers: those to run (default: all); one in which nothing applies to the solver fails.
        checks: ids of the checks to run, instead of tiers.

    Raises:
        ArgumentError: for an id or tier that does not exist.
        UnknownNameError: for a name that no installed package registers.

    """
    reasons = expected(expected_failures)
    return list(run(Subject.of(solver), select(tiers, checks), reasons))


def select(
    tiers: Sequence[str] | None = None, checks: Sequence[str] | None = None
) -> tuple[Check, ...]:
    """Return the checks of these tiers, or those with these ids; ArgumentError for unknown ones."""
    if tiers is not None and checks is not None:
        raise ArgumentError("pass tiers=... or checks=..., not both")
    _known(tiers or (), TIERS, "tier")
    _known(checks or (), [check.id for check in CHECKS], "check")
    if checks is not None:
        return tuple(check for check in CHECKS if check.id in checks)
    return tuple(check for check in CHECKS if check.tier in (tiers or TIERS))


def expected(reasons: Mapping[str, str] | None) -> dict[str, str]:
    """Return expected failures that name checks and say why; ArgumentError for others."""
    given = dict(reasons or {})
    _known(given, [check.id for check in CHECKS], "check")
    for identity, reason in given.items():
        if not (isinstance(reason, str) and reason.strip()):
            raise ArgumentError(f"say why {identity} is expected to fail: the reason is empty")
    return given


def _known(given: Iterable[str], known: Sequence[str], kind: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ArgumentError(f"there is no {kind} {unknown[0]!r}; there are {', '.join(known)}")


def run(
    subject: Subject, checks: Sequence[Check], expected_failures: Mapping[str, str]
) -> Iterator[CheckResult]:
    """Yield the result of each check, and a failure for each tier in which nothing applies."""
    for check in checks:
        yield run_one(check, subject, expected_failures.get(check.id))
    for tier in TIERS:
        reason = empty(tier, subject, checks)
        if reason:
            yield CheckResult(f"{tier}.ran", tier, FAILED, reason, 0.0)


def empty(tier: str, subject: Subject, checks: Sequence[Check]) -> str:
    """Return a sentence on a tier in which no check applies, or an empty text."""
    reasons = {check.skip_reason(subject) for check in checks if check.tier == tier}
    if not reasons or "" in reasons:
        return ""
    return (
        f"nothing in the tier {tier} ran, so nothing there is known of {subject.name}; each check "
        f"needs what it does not have: {'; '.join(sorted(reasons))}"
    )


def run_one(check: Check, subject: Subject, expected_failure: str | None = None) -> CheckResult:
    """Run one check; what the solver prints is swallowed, global settings are put back."""
    skipped = check.skip_reason(subject)
    if skipped:
        return CheckResult(check.id, check.tier, SKIPPED, skipped, 0.0)
    start = time.perf_counter()
    with guarded(), contextlib.redirect_stdout(io.StringIO()):
        failed, reason = _outcome(check, subject)
    seconds = time.perf_counter() - start
    if expected_failure is None:
        return CheckResult(check.id, check.tier, FAILED if failed else PASSED, reason, seconds)
    if failed:
        text = f"{expected_failure} ({reason})"
        return CheckResult(check.id, check.tier, EXPECTED_FAILURE, text, seconds)
    text = f"was expected to fail ({expected_failure}) but passes; take it off the list"
    return CheckResult(check.id, check.tier, UNEXPECTED_PASS, text, seconds)


def _outcome(check: Check, subject: Subject) -> tuple[bool, str]:
    try:
        measured, cause = attempted(lambda: check.run(subject))
    except CheckError as error:
        return True, str(error)
    if cause:
        return True, f"it raised {cause}; what is demanded: {check.demand}"
    return False, measured or check.demand
