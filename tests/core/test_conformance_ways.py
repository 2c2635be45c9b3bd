"""The four ways to run the kit: a function, a decorator, a command, and pytest --pyargs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ode_core import registry
from ode_core.cli import main
from ode_core.testing import CHECKS, check_solver

ROOT = Path(__file__).resolve().parents[2]

# One solver, wrong in ten ways, as a stranger would write it on a bad day.
STRANGER = """
import torch
from ode_core import SolverRecord, Step, hookimpl

@hookimpl
def ode_solvers():
    yield SolverRecord("stranger", "ten_ways:make", "wrong in ten ways", order=3, adaptive=True)

class Stranger:
    name, order, adaptive, implicit, one_step = "strange", 2, True, False, True

    def __init__(self):
        self.steps = 0
        self.trace = lambda *a: None

    def init(self, f, t, y):
        return (f(t, y),)

    def step(self, f, t0, t1, y, carry, tolerance):
        self.steps += 1
        print("step", self.steps)
        torch.rand(())
        h = abs(t1 - t0)
        f(t1 + h, y)
        slope = f.plain(t0, y)
        y1 = y + h * slope
        error = None if tolerance is None else 1e-9
        return Step(y1 + torch.zeros(y.shape, dtype=y.dtype), error, (slope, slope), None)

def make():
    return Stranger()
"""


@pytest.fixture(autouse=True)
def _fresh_registry(monkeypatch):
    variables = ("ODE_PLUGINS_ALLOW", "ODE_PLUGIN_FILES", "ODE_PLUGINS_BLOCK")
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    yield
    for variable in variables:
        os.environ.pop(variable, None)
    sys.modules.pop("ten_ways", None)
    registry.REGISTRY.refresh()


@pytest.fixture
def stranger(tmp_path):
    path = tmp_path / "ten_ways.py"
    path.write_text(STRANGER)
    return str(path)


def test_a_stranger_wrong_in_ten_ways_reads_ten_sentences(stranger, capsys):
    assert main(["check", "stranger", "--plugin", stranger, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    failed = {row["id"]: row["reason"] for row in rows if row["status"] == "failed"}
    ways = {
        "plugin.name": "'strange'",
        "plugin.claims": "order=3",
        "plugin.light_import": "imports torch",
        "plugin.frozen": "steps",
        "plugin.pickles": "cannot be pickled",
        "api.carry": "2 leaves",
        "api.counts": "f.calls",
        "api.interval": "in a solve from",
        "numerics.mirrored": "with its sign",
        "numerics.order": "order 1.",
        "numerics.tolerance": "error is",
        "hygiene.global_state": "random state",
        "hygiene.quiet": "'step",
        "device.placement": "y.device",
    }
    for identity, said in ways.items():
        assert re.search(said, failed[identity]), (identity, failed[identity])
    assert len(set(failed.values())) == len(failed) >= 10


def test_the_command_writes_a_table_for_people(capsys):
    assert main(["check", "rk4", "--tier", "hygiene"]) == 0
    out, err = capsys.readouterr()
    assert "hygiene.quiet" in out
    assert "passed" in out
    assert "rk4: 7 passed" in err


def test_the_command_takes_several_names_and_ids(capsys):
    assert main(["check", "rk4", "euler", "--check", "numerics.order", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [(row["solver"], row["status"]) for row in rows] == [
        ("rk4", "passed"),
        ("euler", "passed"),
    ]
    assert rows[0]["reason"] == "order 4.00, claimed 4"
    assert err == ""


def test_without_a_name_every_solver_is_checked(capsys):
    assert main(["check", "--check", "api.members", "--json", "--quiet"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["solver"] for row in rows} == {
        name for name, record in registry.solvers.items() if not record.missing
    }


def test_the_command_is_strict_on_expected_failures(stranger, capsys):
    quiet = ["check", "stranger", "--plugin", stranger, "--check", "hygiene.quiet", "--json"]
    assert main([*quiet, "--expect", "hygiene.quiet=a trace"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "expected_failure"
    expectation = ["--expect", "hygiene.quiet=a trace"]
    assert main(["check", "rk4", "--check", "hygiene.quiet", *expectation, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["status"] == "unexpected_pass"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_solver"], "no_such_solver"),
        (["rk4", "--tier", "speed"], "'speed'"),
        (["rk4", "--expect", "hygiene.quiet"], "ID=REASON"),
    ],
)
def test_bad_usage_of_the_command_is_status_2(capsys, arguments, said):
    assert main(["check", *arguments]) == 2
    assert said in capsys.readouterr().err


DECORATED = """
from ode_core.testing import conformance
import wrong_solvers

@conformance(wrong_solvers.Heun, tiers=["api", "hygiene"])
def test_right(check):
    check()

@conformance(
    wrong_solvers.Prints(),
    tiers=["hygiene"],
    expected_failures={"hygiene.quiet": "it is verbose", "hygiene.memory": "not so"},
)
def test_wrong(check):
    check()
"""


def run_pytest(folder, *arguments, path=()):
    paths = [str(p) for p in path] + [os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "COLUMNS": "250",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_decorator_makes_a_test_of_each_check(tmp_path):
    (tmp_path / "test_mine.py").write_text(DECORATED)
    done = run_pytest(tmp_path, path=[Path(__file__).parent])
    assert "test_right[api.shapes] PASSED" in done.stdout
    assert "test_right[api.ran] PASSED" in done.stdout
    assert "test_wrong[hygiene.quiet] XFAIL (it is verbose" in done.stdout
    assert "test_wrong[hygiene.memory] FAILED" in done.stdout
    assert "take it off the list" in done.stdout
    assert done.stdout.count("FAILED") == 2  # the line and its summary


def installed_metadata(folder):
    """Write what an installer makes of pyproject.toml: here, the entry points."""
    project = tomllib.loads((ROOT / "packages/ode-core/pyproject.toml").read_text())["project"]
    info = folder / f"ode_core-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_pyargs_runs_the_suite_on_named_solvers(tmp_path):
    installed_metadata(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ("--ode-solver", "rk4", "--ode-expect", "hygiene.quiet=it is verbose")
    done = run_pytest(empty, "--pyargs", "ode_core.testing.suite", *options, path=[tmp_path])
    assert done.returncode == 1, done.stderr
    for check in CHECKS:
        assert f"test_conformance[rk4-{check.id}]" in done.stdout
    assert "test_conformance[rk4-numerics.order] PASSED" in done.stdout
    assert "test_conformance[rk4-numerics.tolerance] SKIPPED (it has no error" in done.stdout
    assert "test_conformance[rk4-numerics.ran] PASSED" in done.stdout
    assert "test_conformance[rk4-hygiene.quiet] FAILED" in done.stdout


def test_the_function_returns_results_in_order():
    results = check_solver("rk4", tiers=["hygiene", "plugin"])
    assert [r.tier for r in results] == sorted((r.tier for r in results), reverse=True)
    assert all(r.seconds >= 0.0 and r.reason for r in results)
