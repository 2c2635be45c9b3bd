"""A plugin of every template, installed with pip: complete, well-behaved, and in the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ode_core.cli import main

TEMPLATES = {
    "kutta-three": ("new-solver",),
    "ab-two": ("new-solver", "--stepper"),
    "solved-again": ("new-gradient",),
    "hares": ("new-task",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with the four distributions."""
    folder = tmp_path_factory.mktemp("made")
    for name, (command, *options) in TEMPLATES.items():
        assert main([command, name, *options, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def environment(made, tmp_path_factory):
    """Environment variables with which Python finds them installed."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", str(site), *(str(made / name) for name in TEMPLATES)],
        check=True,
    )  # fmt: skip
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def python(environment, *arguments, cwd):
    done = subprocess.run([sys.executable, "-m", *arguments], env=environment, cwd=cwd,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_of_the_template_is_left_to_fill_in(made):
    files = [path for path in made.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        "README.md",
        "tests.yml",
        "pyproject.toml",
        ".gitignore",
    }
    for path in files:
        assert not {"{{", "{%"} & {path.read_text()[i : i + 2] for i in range(path.stat().st_size)}
        assert "{{" not in str(path)


def test_their_own_tests_pass(made, environment):
    tests = [str(made / name / "tests") for name in TEMPLATES]
    chosen = "fault or numerics.order or tsit5 or data or refused"
    said = python(environment, "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
                  "-k", chosen, *tests, cwd=made)  # fmt: skip
    assert "11 passed" in said


def test_the_benchmark_plans_with_them(environment, tmp_path):
    said = python(
        environment, "ode_core", "benchmark", "--tasks", "hares", "--solvers",
        "kutta_three,ab_two", "--gradients", "solved_again", "--dry-run", "--json", cwd=tmp_path,
    )  # fmt: skip
    rows = json.loads(said)
    assert [(row["solver"], row["status"]) for row in rows] == [
        ("kutta_three", "planned"),
        ("ab_two", "planned"),
    ]
    assert all(row["packages"]["gradient"] == "solved-again 0.1.0" for row in rows)


def test_they_train_together(environment, tmp_path):
    python(
        environment, "ode_core", "run", "hares", "--solver", "kutta_three", "--gradient",
        "solved_again", "--set", "epochs=3", "--out", "run", "--quiet", cwd=tmp_path,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losses = [row["train_loss"] for row in metrics["history"]]
    assert losses[2] < losses[0]
    assert metrics["f_backward"] == metrics["f_forward"] > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [("dopri5", "already registered by ode-solvers"), ("json", "Python module 'json'"),
     ("Mine!", "is no name for a distribution"), ("kutta-three", "is there already")],
)  # fmt: skip
def test_a_name_that_cannot_be_used_is_refused(made, capsys, name, said):
    assert main(["new-solver", name, "--out", str(made)]) == 2
    assert said in capsys.readouterr().err


def test_without_copier_the_command_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "copier", None)
    assert main(["new-solver", "mine"]) == 1
    assert "pip install 'ode-core[new]'" in capsys.readouterr().err
