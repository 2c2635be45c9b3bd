"""A check, what came of it, and the words in which it says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ode_core.discovery import describe

if TYPE_CHECKING:
    from ode_core.testing.subject import Subject

    Need = Callable[[Subject], str]
    """Why a check does not apply to a solver; an empty text where it does."""

T = TypeVar("T")

TIERS = ("plugin", "api", "numerics", "gradient", "device", "hygiene")

PASSED = "passed"
FAILED = "failed"
SKIPPED = "skipped"
EXPECTED_FAILURE = "expected_failure"
UNEXPECTED_PASS = "unexpected_pass"


class CheckError(Exception):
    """A demand that a solver does not meet: what was measured, what is expected, what to do."""


@dataclass(frozen=True)
class Check:
    """One demand on a solver.

    `id` is its tier and name, `demand` what it asks for, `needs` say whether it applies. `run`
    returns a few words on what it measured, or raises CheckError.
    """

    id: str
    demand: str
    run: Callable[[Subject], str | None]
    needs: tuple[Need, ...] = ()

    @property
    def tier(self) -> str:
        """The tier that the check belongs to."""
        return self.id.partition(".")[0]

    def skip_reason(self, subject: Subject) -> str:
        """Return why the check does not apply to this solver, or an empty text."""
        if subject.cause and self.id != "plugin.resolves":
            return "there is no solver to check: plugin.resolves failed"
        return next((reason for need in self.needs if (reason := need(subject))), "")


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    `status` is passed, failed, skipped (it does not apply), expected_failure or unexpected_pass;
    `reason` is a sentence: what was measured, what is expected, what to do.
    """

    id: str
    tier: str
    status: str
    reason: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the solver is as it was said to be: an unexpected pass is not."""
        return self.status not in (FAILED, UNEXPECTED_PASS)


def check(identity: str, *needs: Need) -> Callable[[Callable[[Subject], str | None]], Check]:
    """Make a check of a function; the first line of its docstring is the demand."""

    def made(function: Callable[[Subject], str | None]) -> Check:
        demand = (function.__doc__ or "").strip().splitlines()[0]
        return Check(identity, demand, function, needs)

    return made


def demand(met: bool, sentence: str) -> None:
    """Raise CheckError with the sentence unless the demand is met."""
    if not met:
        raise CheckError(sentence)


def attempted(call: Callable[[], T]) -> tuple[T | None, str]:
    """Return what a call returns, and in words what it raised: a guest's error is a finding."""
    try:
        return call(), ""
    except CheckError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a guest raises
        return None, describe(error)
