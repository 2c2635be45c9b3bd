"""The pytest options of `ode_core.testing.suite`; loaded in every run of pytest, so it is light."""

from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add what `pytest --pyargs ode_core.testing.suite` takes."""
    group = parser.getgroup("ode", "conformance of ODE solvers (ode_core.testing.suite)")
    group.addoption(
        "--ode-solver",
        action="append",
        default=[],
        metavar="NAME",
        help="check this registered solver; may be repeated (default: every registered one)",
    )
    group.addoption(
        "--ode-expect",
        action="append",
        default=[],
        metavar="ID=REASON",
        help="a check that must fail, and why; may be repeated",
    )
