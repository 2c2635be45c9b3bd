"""The conformance kit: what the suite demands of a solver, and ways to ask whether it is so.

Four ways lead to one list of checks: `check_solver`, the decorator `conformance`, the command
`ode check`, and `pytest --pyargs ode_core.testing.suite --ode-solver NAME`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ode_core.testing.checks import CHECKS
    from ode_core.testing.decorator import conformance
    from ode_core.testing.isolated import isolated_registry
    from ode_core.testing.results import TIERS, Check, CheckResult
    from ode_core.testing.runner import check_solver

_EXPORTS = {
    "CHECKS": "checks",
    "conformance": "decorator",
    "isolated_registry": "isolated",
    "TIERS": "results",
    "Check": "results",
    "CheckResult": "results",
    "check_solver": "runner",
}

__all__ = [
    "CHECKS",
    "TIERS",
    "Check",
    "CheckResult",
    "check_solver",
    "conformance",
    "isolated_registry",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
