"""One test for each check of each solver that the options name."""

from __future__ import annotations

from typing import Any

from ode_core import registry
from ode_core.testing.decorator import bound


def pytest_generate_tests(metafunc: Any) -> None:
    """Give the suite's one test its checks."""
    config = metafunc.config
    names = config.getoption("--ode-solver") or list(registry.solvers)
    reasons = dict(word.partition("=")[::2] for word in config.getoption("--ode-expect"))
    checks = [one for name in names for one in bound(name, reasons, prefix=f"{name}-")]
    metafunc.parametrize("check", checks)
