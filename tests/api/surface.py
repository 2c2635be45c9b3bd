"""What users can rely on, as lines of text: public names and signatures, registered names, options.

python -m tests.api.surface     # writes public.txt anew, to be looked at and committed
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import typer

import ode_core
from ode_core import cli, registry

SNAPSHOT = Path(__file__).with_name("public.txt")
MODULES = (
    "ode_core", "ode_core.testing", "ode_core.testing.problems", "ode_solvers",
    "ode_solvers.compat.torchdiffeq", "ode_models", "ode_tasks.train", "ode_tasks.report",
)  # fmt: skip
# Modules that users import by name and that have no list of what is public.
WHOLE = ("ode_core.hooks", "ode_core.protocols", "ode_models.fields", "ode_solvers.fields")
CATALOGUES = ("solvers", "gradients", "models", "tasks", "executors")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def _annotated(annotation: Any) -> str:
    shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return str(shown).strip("'\"").replace("typing.", "")


def signature(function: Any) -> str:
    """Return a signature as it is written, annotations without their quotes."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    empty = inspect.Parameter.empty
    parameters = [
        p.replace(annotation=empty if p.annotation is empty else _Plain(_annotated(p.annotation)))
        for p in found.parameters.values()
    ]
    returned = found.return_annotation
    ending = "" if returned is inspect.Signature.empty else f" -> {_annotated(returned)}"
    return (
        _ADDRESS.sub("", str(found.replace(parameters=parameters, return_annotation=empty)))
        + ending
    )


class _Plain:
    """An annotation that is shown as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def members(name: str, kind: type) -> list[str]:
    """Return a class's own public attributes, methods and, for an enumeration, its members."""
    if issubclass(kind, enum.Enum):
        return [f"{name}.{member.name}" for member in kind]
    lines = []
    if dataclasses.is_dataclass(kind):
        lines += [f"{name}.{f.name}: {_annotated(f.type)}" for f in dataclasses.fields(kind)
                  if not f.name.startswith("_")]  # fmt: skip
    for attribute, value in vars(kind).items():
        if attribute.startswith("_"):
            continue
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(plain):
            lines.append(f"{name}.{attribute}{signature(plain)}")
        elif isinstance(value, property):
            lines.append(f"{name}.{attribute} (property)")
    return lines


def described(name: str, value: Any) -> list[str]:
    """Return the lines of one public name."""
    if inspect.isclass(value):
        above = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        builds = "" if issubclass(value, BaseException | enum.Enum) else signature(value)
        return [f"class {name}{builds}{f' of {above}' if above else ''}", *members(name, value)]
    if callable(value) and not isinstance(value, ode_core.records.Record):
        return [f"{name}{signature(value)}"]
    return [f"{name}: {type(value).__name__}"]


def names_of(module: Any) -> list[str]:
    """Return the public names of a module: its list, or what is defined in it."""
    listed = getattr(module, "__all__", None)
    if listed is not None and module.__name__ not in WHOLE:
        return sorted(listed)
    return sorted(name for name, value in vars(module).items() if not name.startswith("_")
                  and getattr(value, "__module__", "") == module.__name__
                  and name not in ode_core.__all__)  # fmt: skip


def commands() -> list[str]:
    """Return the commands of the suite with their arguments and options."""
    group = typer.main.get_command(cli.app)
    lines = []
    for name, record in registry.commands.items():
        if record.package.startswith("ode-"):
            command = cli._loaded(name, record)
            words = sorted(" ".join(p.opts) for p in command.params if p.name != "help")
            lines.append(f"ode {name}: {', '.join(words)}")
    return [f"ode: {', '.join(sorted(' '.join(p.opts) for p in group.params))}", *lines]


def surface() -> list[str]:
    """Return every line, in an order that no machine changes."""
    lines = []
    for path in (*MODULES, *WHOLE):
        module = importlib.import_module(path)
        for name in names_of(module):
            lines += described(f"{path}.{name}", getattr(module, name))
    for kind in CATALOGUES:
        own = [n for n, r in getattr(registry, kind).items() if r.package.startswith("ode-")]
        lines += [f"{kind}: {name}" for name in own]
    return sorted({*lines, *commands()})


def changes(before: list[str], after: list[str]) -> str:
    """Return what was taken away or changed, which breaks users, and what was added."""
    lost, gained = sorted({*before} - {*after}), sorted({*after} - {*before})
    parts = [("taken away or changed, which breaks users", lost, "-"), ("added", gained, "+")]
    return "\n".join(
        f"{title}:\n" + "\n".join(f"  {mark} {line}" for line in lines)
        for title, lines, mark in parts if lines
    )  # fmt: skip


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(surface()) + "\n")
