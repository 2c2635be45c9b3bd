"""Every script in examples/ runs and says what it is there to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def run(path, *arguments):
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_runs_and_is_short(path):
    assert path.read_text().count("\n") <= 80
    assert run(path).strip()


def test_the_adjoint_is_worst_with_one_euler_step_and_then_with_midpoint():
    path = next(p for p in EXAMPLES if p.stem == "adjoint_error")
    rows = run(path, "--channels", "16", "--seeds", "2").splitlines()[1:]
    least = {row[:18].strip(): float(row[18:].split(" to ")[0]) for row in rows}
    assert sorted(least, key=least.get)[-2:] == ["midpoint, 1 step", "euler, 1 step"]
    assert least["euler, 1 step"] > 0.5
    assert least["euler, 32 steps"] < 0.1
