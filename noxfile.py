"""The project's chores. Each session only calls what a user without nox could call.

Every install passes constraints.txt and takes torch first, so that no looser request for it brings
CUDA libraries along.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
PACKAGES = ("ode-core", "ode-solvers", "ode-models", "ode-tasks")
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
PINS = dict(re.findall(r"^(\S+?)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
TEST_NEEDS = (
    "pytest", "pytest-xdist", "hypothesis", "scipy", "hatchling", "triton", "tensorboard", "copier",
    "playwright",
)  # fmt: skip
WHEEL = ("python", "-m", "build", "--wheel", "-o")
# A plugin of each kind: what it is called, and what comes after `ode new-`.
TEMPLATES = {
    "kutta-three": ("solver",),
    "ab-two": ("solver", "--stepper"),
    "solved-again": ("gradient",),
    "hares": ("task",),
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def pinned(*names: str) -> list[str]:
    """Return requirements with the versions that constraints.txt names."""
    return [f"{name}=={PINS[name]}" for name in names]


def install_suite(session: nox.Session, *needs: str) -> None:
    """Install the four packages from the tree, editable, and what a session needs beside them."""
    session.install(*CONSTRAINTS, *pinned("torch"))
    editable = [word for name in PACKAGES for word in ("-e", str(ROOT / "packages" / name))]
    session.install(*CONSTRAINTS, *editable, *needs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, or those named: nox -s tests -- tests/core -k loop."""
    install_suite(session, *TEST_NEEDS)
    session.run("pytest", "-n", "2", *(session.posargs or ["tests"]), env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style with ruff, without torch."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy at its strict setting."""
    install_suite(session, "mypy")
    session.run("mypy", *(f"packages/{name}/src" for name in PACKAGES))


@nox.session
def package(session: nox.Session) -> None:
    """Build the four wheels and use them in this clean environment, outside of the repository."""
    wheels = Path(session.create_tmp()) / "wheels"
    session.install(*CONSTRAINTS, *pinned("torch"), "build")
    for name in PACKAGES:
        session.run("python", "-m", "build", "-o", str(wheels), str(ROOT / "packages" / name))
    found = [str(path) for path in sorted(wheels.glob("*.whl"))]
    session.install(*CONSTRAINTS, "--force-reinstall", "--no-deps", *found)
    session.install(*CONSTRAINTS, "ode-tasks", "--find-links", str(wheels))
    with session.chdir(session.create_tmp()):
        session.run("ode", "list")
        session.run("ode", "run", "spiral", "--preset", "smoke", env=ONE_THREAD)


@nox.session
def template(session: nox.Session) -> None:
    """Make a plugin of every template, install it beside our wheels, run its tests, find it."""
    wheels = Path(session.create_tmp()) / "wheels"
    session.install(*CONSTRAINTS, *pinned("torch"), "build", "pytest")
    for name in PACKAGES:
        session.run(*WHEEL, str(wheels), str(ROOT / "packages" / name))
    found = [str(path) for path in sorted(wheels.glob("ode_*.whl"))]
    session.install(*CONSTRAINTS, "--force-reinstall", "--no-deps", *found)
    session.install(*CONSTRAINTS, "ode-tasks", "ode-core[new]", "--find-links", str(wheels))
    plugins = Path(session.create_tmp()) / "plugins"
    shutil.rmtree(plugins, ignore_errors=True)
    plugins.mkdir()
    with session.chdir(plugins):
        for name, words in TEMPLATES.items():
            session.run("pip", "uninstall", "--quiet", "--yes", name)
            session.run("ode", f"new-{words[0]}", name, *words[1:])
            session.run(*WHEEL, str(plugins), name)
        session.install("--no-deps", *(str(path) for path in plugins.glob("*.whl")))
        for name in TEMPLATES:
            session.run("pytest", "-q", f"{name}/tests", env=ONE_THREAD)
        session.run("ode", "benchmark", "--dry-run", "--tasks", "hares", "--solvers",
                    "kutta_three,ab_two", "--gradients", "solved_again")  # fmt: skip


@nox.session
def benchmark(session: nox.Session) -> None:
    """Run every task against every registered solver: nox -s benchmark -- --preset quick."""
    install_suite(session)
    session.run("ode", "benchmark", *session.posargs, env=ONE_THREAD)


@nox.session
def peers(session: nox.Session) -> None:
    """Time the suite beside torchdiffeq, torchode, diffrax and SciPy, installed here alone."""
    install_suite(session, *pinned("torchdiffeq", "torchode", "diffrax", "scipy"), "jax[cpu]")
    session.run("ode", "peers", *session.posargs, env=ONE_THREAD)


@nox.session
def gpu(session: nox.Session) -> None:
    """Check and measure on a GPU: nox -s gpu -- --out figures; without one add --interpret."""
    install_suite(session, "triton")
    session.run("python", "-m", "ode_solvers.gpu", *session.posargs, env=ONE_THREAD)
