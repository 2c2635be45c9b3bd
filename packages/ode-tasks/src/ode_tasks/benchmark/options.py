"""The options of `ode benchmark`, and what their texts mean."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ode_core import registry
from ode_core.registry import load_target

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMES = "Names, separated by commas, with * and ?; "

Tasks = Annotated[str, typer.Option(help=_NAMES + "all if not given.")]
Models = Annotated[str, typer.Option(help=_NAMES + "each task's default model.")]
Solvers = Annotated[str, typer.Option(help=_NAMES + "all if not given.")]
Gradients = Annotated[str, typer.Option(help=_NAMES + "of gradient methods.")]
Tolerances = Annotated[
    str, typer.Option(help="Of solvers that choose their steps, as in 1e-3,1e-5.")
]
Steps = Annotated[str, typer.Option(help="Of the other solvers, as in 0.1,0.05.")]
Where = Annotated[
    str, typer.Option(help="A condition on the records, as in 'order >= 4 and not implicit'.")
]
Data = Annotated[list[str] | None, typer.Option(help="TASK=PATH, as often as needed.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")]
Devices = Annotated[
    str, typer.Option("--devices", "--device", help="Where to train, as in cpu,cuda.")
]
TimedOnly = Annotated[
    bool, typer.Option("--timed", help="For times: one cell at once, kept by machine.")
]
ExecutorSet = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE for the executor, as often as needed.")
]
Seconds = Annotated[float | None, typer.Option(help="A cell's limit; by default the preset's.")]

# What every executor is given by options of their own.
_COMMON = ("workers", "seconds", "memory")
_TYPES = {"int": int, "float": float, "str": str}


def listed(names: str) -> list[str]:
    """Return the names in a text, separated by commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def numbers(option: str, text: str) -> list[float]:
    """Return the positive numbers in a text, separated by commas; BadParameter for others."""
    found = []
    for word in listed(text):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise typer.BadParameter(
                f"{option} takes numbers above 0, separated by commas, as in 1e-3,1e-5; {word!r} "
                "is none"
            )
        found.append(value)
    return list(dict.fromkeys(found))


def located(pairs: Sequence[str], tasks: Sequence[str]) -> dict[str, Path]:
    """Return TASK=PATH texts as a mapping; BadParameter for what is none or has no effect."""
    found: dict[str, Path] = {}
    for pair in pairs:
        task, equals, path = pair.partition("=")
        if not equals or task not in registry.tasks:
            raise typer.BadParameter(
                f"--data takes TASK=PATH with a task of {', '.join(registry.tasks)}; "
                f"{pair!r} is not that"
            )
        if tasks and task not in tasks:
            raise typer.BadParameter(f"--data {pair} has no effect: {task} is not among --tasks")
        if not Path(path).expanduser().exists():
            raise typer.BadParameter(f"--data {pair}: there is nothing at {path}")
        found[task] = Path(path).expanduser().resolve()
    return found


def executor_options(executor: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE texts as options of an executor, of the types that it declares.

    Raises UnknownNameError for an executor that nobody registers, BadParameter for an option that
    it does not have.
    """
    if not pairs:
        return {}
    parameters = inspect.signature(load_target(registry.executors[executor])).parameters
    own = {name: p for name, p in parameters.items() if name not in _COMMON}
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in own:
            raise typer.BadParameter(
                f"--executor-set takes KEY=VALUE; the executor {executor!r} has "
                f"{', '.join(own) or 'no options of its own'}, and {pair!r} is none of them"
            )
        kind = _TYPES.get(str(own[key].annotation).removesuffix(" | None"), str)
        try:
            options[key] = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise typer.BadParameter(f"--executor-set {pair}: {key} is {wanted}") from None
    return options
