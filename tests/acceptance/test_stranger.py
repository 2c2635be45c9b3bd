"""A solver from outside: built and installed with pip, it is everywhere, on equal terms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "kutta-three"
version = "0.3.1"
dependencies = ["ode-solvers"]

[project.entry-points.ode]
kutta = "kutta_three.plugin"
"""

PLUGIN = """
from ode_core import SolverRecord, hookimpl

@hookimpl
def ode_solvers():
    yield SolverRecord("kutta3", "kutta_three.method:kutta3", "Kutta's third-order method",
                       order=3, adaptive=False)
"""

METHOD = """
from ode_solvers import RungeKutta, Tableau

def kutta3():
    return RungeKutta(Tableau(a=[[], [1 / 2], [-1, 2]], b=[1 / 6, 2 / 3, 1 / 6], c=[0, 1 / 2, 1],
                              order=3, name="kutta3"))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Environment variables with which Python finds the stranger's installed distribution."""
    source = tmp_path_factory.mktemp("kutta-three")
    package = source / "kutta_three"
    package.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(textwrap.dedent(PLUGIN))
    (package / "method.py").write_text(textwrap.dedent(METHOD))
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", str(site), str(source)],
        check=True,
    )  # fmt: skip
    return os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def ode(environment, *arguments, cwd=None):
    done = subprocess.run(
        [sys.executable, "-m", "ode_core", *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_at_once_with_its_package(environment):
    rows = json.loads(ode(environment, "list", "solvers", "--json"))
    found = next(row for row in rows if row["name"] == "kutta3")
    assert (found["package"], found["version"]) == ("kutta-three", "0.3.1")
    assert found["order"] == 3


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_it_solves_and_trains_with_every_gradient(environment, gradient):
    code = (
        "import torch, ode_core\n"
        "y = torch.ones(2, dtype=torch.float64, requires_grad=True)\n"
        f"s = ode_core.solve(lambda t, y: -y, y, [0.0, 1.0], solver='kutta3', dt=0.05,"
        f" gradient={gradient!r})\n"
        "s.ys[-1].sum().backward()\n"
        "print(abs(y.grad - torch.tensor(-1.0).exp()).max().item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_it_is_in_the_benchmark_with_an_error_below_eulers(environment, tmp_path):
    ode(
        environment,
        *("benchmark", "--tasks", "linear,spiral", "--solvers", "kutta3,euler"),
        *("--seconds", "300", "--out", "result", "--quiet"),
        cwd=tmp_path,
    )
    cells = [json.loads(p.read_text()) for p in (tmp_path / "result" / "cells").rglob("*.json")]
    assert len(cells) == 4
    assert {cell["status"] for cell in cells} == {"ok"}
    for task in ("linear", "spiral"):
        error = {c["solver"]: c["solver_error"] for c in cells if c["task"] == task}
        assert error["kutta3"] < 0.5 * error["euler"]
    assert (tmp_path / "result" / "index.html").read_text().count("kutta3") > 0
