"""The suite's one test; its checks come from conftest.py."""

from __future__ import annotations

from collections.abc import Callable


def test_conformance(check: Callable[[], None]) -> None:
    """The solver meets the demand."""
    check()
