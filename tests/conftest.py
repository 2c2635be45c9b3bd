"""What every test shares: one thread, fixed seeds, and no skip that nobody has agreed to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

# Triton's interpreter stands in where there is no GPU; it must be chosen before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Ctrl-C as in a terminal: what is started in the background, and all that it starts, ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Why a test may be skipped, and what makes it run. Any other skip fails the run.
ALLOWED_SKIPS = {
    "needs the shared data folder": "real CIFAR-10 and glucose data are no part of the project",
    "needs a CUDA device": "no GPU on this machine",
    "needs a C compiler": "torch makes the sums where there is none",
    "needs Chromium": "pages are looked at in a browser where there is one",
    "needs slurm-wlm and munge": "Debian's packages, which .ci/run installs where it is root",
    "needs a Chromium browser": "apt-get install chromium; the page is tested in one",
    "needs Playwright": "the tests' environment has it",
}

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def shared_data():
    """The folder of real data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder")
    return SHARED


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    reasons = {str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])}
    unknown = [r for r in reasons if not any(allowed in r for allowed in ALLOWED_SKIPS)]
    if unknown and exitstatus == 0:
        reporter.write_line(f"skips that no one agreed to: {sorted(unknown)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
