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
    "sphinx", "myst-parser", "furo", "playwright", "submitit",
)  # fmt: skip
WHEEL = ("python", "-m", "build", "--wheel", "-o")
# What each package is for, done with it alone; the others' is what their READMEs show.
MAIN_JOB = {"ode-tasks": ("ode", "run", "spiral", "--preset", "smoke")}
README_RUN = """
import pathlib, re, sys
text = pathlib.Path(sys.argv[1]).read_text()
for code in re.findall(r"^```python\\n(.*?)^```", text, re.S | re.M):
    exec(code, globals())
"""
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
def docs(session: nox.Session) -> None:
    """Build the site into site/, strictly and from nothing but this repository."""
    install_suite(session, "sphinx", "myst-parser", "furo", "pytest")
    session.run("sphinx-build", "-E", "-W", "--keep-going", "-q", "docs", "site", env=ONE_THREAD)
    session.log(f"open {ROOT / 'site' / 'index.html'}")


@nox.session
def cover(session: nox.Session) -> None:
    """Measure the branches of ode-core and ode-solvers that their tests take: 90 % at least."""
    install_suite(session, *TEST_NEEDS, "pytest-cov")
    tests = session.posargs or ["tests/core", "tests/solvers", "tests/acceptance", "tests/budgets"]
    session.run("pytest", "-n", "2", "--cov", "--cov-report=term:skip-covered", *tests,
                env=ONE_THREAD)  # fmt: skip


@nox.session
def lowest(session: nox.Session) -> None:
    """Run tests with the lowest version of everything but torch that the packages allow."""
    floors = ("-c", str(ROOT / "constraints-lowest.txt"))
    tools = ("pytest", "pytest-xdist", "hypothesis", "hatchling", "playwright")
    session.install(*floors, *pinned("torch", "torchvision", "triton", *tools))
    editable = [word for name in PACKAGES for word in ("-e", str(ROOT / "packages" / name))]
    session.install(*floors, *editable, "copier", "tensorboard", "submitit")
    tests = session.posargs or ["tests/core", "tests/models", "tests/tasks", "tests/acceptance"]
    session.run("pytest", "-n", "2", *tests, env=ONE_THREAD)


@nox.session
def alone(session: nox.Session) -> None:
    """Install each package alone from its wheel, which its sdist made, and do its main job."""
    wheels = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(wheels, ignore_errors=True)
    session.install(*CONSTRAINTS, "build")
    for name in PACKAGES:
        session.run("python", "-m", "build", "-o", str(wheels), str(ROOT / "packages" / name))
    place = wheels.parent
    for name in PACKAGES:
        bare = place / name
        session.run("python", "-m", "venv", "--clear", str(bare))
        install = (str(bare / "bin" / "pip"), "install", "--quiet", *CONSTRAINTS)
        session.run(*install, *pinned("torch"), external=True)
        session.run(*install, "--find-links", str(wheels), name, external=True)
        with session.chdir(place):
            readme = ROOT / "packages" / name / "README.md"
            run = ("python", "-c", README_RUN, str(readme))
            command, *words = MAIN_JOB.get(name, run)
            for line in ((command, *words), ("ode", "list"), ("pip", "check")):
                session.run(str(bare / "bin" / line[0]), *line[1:], external=True, env=ONE_THREAD)


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
