"""The main jobs, where Triton, a C compiler and what only Unix has are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

MISSING = ("triton", "fcntl", "resource", "copier")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Environment variables with which Python, in worker processes too, finds none of them."""
    site = tmp_path_factory.mktemp("site")
    blocking = f"import sys\nsys.modules.update(dict.fromkeys({MISSING}))\n"
    (site / "sitecustomize.py").write_text(blocking)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "PATH": "", "OMP_NUM_THREADS": "1"}


def python(environment, *arguments, cwd):
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_they_are_missing(bare, tmp_path):
    code = "import shutil, sys\nprint([sys.modules[n] for n in sys.argv[1:]], shutil.which('cc'))"
    printed = python(bare, "-c", code, *MISSING, cwd=tmp_path).stdout
    assert printed == f"{[None] * len(MISSING)} None\n"


def test_solving_and_training_through_a_solve(bare, tmp_path):
    code = """
import sys, torch, warnings
sys.modules["scipy"] = None
warnings.simplefilter("error")
from ode_solvers import solve
for gradient in ("direct", "adjoint", "checkpoint", "symplectic", "interpolated"):
    y = torch.ones(3, 2, requires_grad=True)
    for stepping in ("shared", "per_sample"):
        solve(lambda t, y: -y, y, [0.0, 1.0], gradient=gradient, stepping=stepping,
              rtol=1e-6, atol=1e-8).ys[-1].sum().backward()
    assert torch.allclose(y.grad, torch.full_like(y, 2 * torch.e ** -1), atol=1e-4), gradient
"""
    done = python(bare, "-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_benchmark_runs(bare, tmp_path):
    python(
        bare, "-m", "ode_core", "benchmark", "--tasks", "linear", "--solvers", "euler",
        "--seconds", "300", "--out", "result", "--quiet", cwd=tmp_path,
    )  # fmt: skip
    cells = [json.loads(p.read_text()) for p in (tmp_path / "result" / "cells").rglob("*.json")]
    assert [(cell["status"], cell["reason"]) for cell in cells] == [("ok", "")]


def test_the_doctor_says_so(bare, tmp_path):
    rows = json.loads(python(bare, "-m", "ode_core", "doctor", "--json", cwd=tmp_path).stdout)
    facts = {row["what"]: row["value"] for row in rows if "what" in row}
    assert facts["C compiler"].startswith("none of")
    assert facts["sums in C"] == facts["stages in C"] == "torch makes them"
    assert "pip install 'ode-solvers[triton]'" in facts["Triton"]
