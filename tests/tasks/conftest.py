"""What tests of the tasks share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ode_core import discovery
from ode_core.registry import REGISTRY


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Register the fake tasks and solvers, here and in workers; return the log of their runs."""
    log = tmp_path / "runs.txt"
    monkeypatch.setenv(discovery.ENV_FILES, str(Path(__file__).with_name("fake_experiments.py")))
    monkeypatch.setenv("FAKE_LOG", str(log))
    REGISTRY.refresh()
    yield log
    monkeypatch.undo()
    sys.modules.pop("fake_experiments", None)
    REGISTRY.refresh()
