"""`ode new-solver` and its like: a plugin to start from, complete and tested."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Annotated

import copier
import typer

from ode_core import registry
from ode_core.catalogue import Catalogue, R
from ode_core.console import Output
from ode_core.discovery import normalise
from ode_core.errors import ArgumentError

_TEMPLATE = Path(__file__).with_name("templates") / "plugin"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")

_Name = Annotated[str, typer.Argument(help="Name of the distribution, such as my-solver.")]
_Out = Annotated[Path, typer.Option(help="The folder to make it in.")]


def new_solver(
    ctx: typer.Context,
    name: _Name,
    *,
    stepper: Annotated[
        bool, typer.Option("--stepper", help="A solver that is no Runge-Kutta method.")
    ] = False,
    out: _Out = Path(),
) -> None:
    """Make a distribution with a solver: a Runge-Kutta table, its tests, a README and a CI file."""
    _make(ctx.obj, "stepper" if stepper else "solver", registry.solvers, name, out)


def new_gradient(ctx: typer.Context, name: _Name, *, out: _Out = Path()) -> None:
    """Make a distribution with a gradient method, its tests, a README and a CI file."""
    _make(ctx.obj, "gradient", registry.gradients, name, out)


def new_task(ctx: typer.Context, name: _Name, *, out: _Out = Path()) -> None:
    """Make a distribution with a task and its data, tests, a README and a CI file."""
    _make(ctx.obj, "task", registry.tasks, name, out)


def _make(output: Output, kind: str, taken: Catalogue[R], name: str, out: Path) -> None:
    package = normalise(name)
    module = package.replace("-", "_")
    target = out / package
    _check(name, module, target, taken)
    answers = {"kind": kind, "package": package, "module": module, "core": _compatible()}
    for part in ("common", kind):
        copier.run_copy(
            str(_TEMPLATE),
            target,
            data=answers | {"part": part},
            defaults=True,
            overwrite=True,
            quiet=True,
        )
    made = sorted(path for path in target.rglob("*") if path.is_file())
    output.rows([{"file": str(path)} for path in made], ("file",))
    output.note(
        f"next: cd {target} && pip install -e '.[test]' && pytest && ode list {taken.kind}s"
    )


def _check(name: str, module: str, target: Path, taken: Catalogue[R]) -> None:
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"{name!r} is no name for a distribution; take lower-case letters, digits and hyphens, "
            "a letter first, such as my-solver"
        )
    if module in taken:
        raise ArgumentError(
            f"the {taken.kind} {module!r} is already registered by {taken[module].package}; "
            "choose another name"
        )
    if importlib.util.find_spec(module) is not None:
        raise ArgumentError(f"there is a Python module {module!r} already; choose another name")
    if target.exists():
        raise ArgumentError(f"{target} is there already; choose another name, or another --out")


def _compatible() -> str:
    """Return the versions of the suite that a plugin made today works with."""
    major, minor, *_ = metadata.version("ode-core").split(".")
    after = f"0.{int(minor) + 1}" if major == "0" else str(int(major) + 1)
    return f">={major}.{minor},<{after}"
