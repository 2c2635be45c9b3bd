"""What a plugin yields: small frozen records whose `target` is imported when it is first needed.

Nothing here imports torch, so listing and planning stay quick.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from ode_core.citation import Reference
from ode_core.errors import ArgumentError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_COMMAND = re.compile(r"[a-z][a-z0-9_-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Record:
    """One thing that a package offers under a name.

    `target` is `"package.module:callable"`; `create` calls it with the user's options.
    `requires` maps a module that must be importable to the pip requirement that brings it.
    `source` is the publication that a user should cite.
    `package` and `version` are stamped by the host, whatever the plugin writes there.
    """

    kind: ClassVar[str] = ""
    _pattern: ClassVar[re.Pattern[str]] = _NAME

    name: str
    target: str
    summary: str
    package: str = field(default="", kw_only=True)
    version: str = field(default="", kw_only=True)
    requires: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    source: Reference | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self._pattern.fullmatch(self.name)):
            raise ArgumentError(
                f"the name {self.name!r} is not usable: lower-case letters, digits and "
                "underscores, a letter first"
            )
        if not (isinstance(self.target, str) and _TARGET.fullmatch(self.target)):
            raise ArgumentError(
                f"the target {self.target!r} of {self.name!r} should read 'package.module:callable'"
            )
        # Listing, planning and messages rely on them, long after the plugin was loaded.
        for member in fields(self):
            value = getattr(self, member.name)
            if not _of_type(value, str(member.type)):
                raise ArgumentError(
                    f"{member.name}={value!r:.60} of the {self.kind} {self.name!r} should be "
                    f"{_TYPES[str(member.type)][1]}"
                )

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the pip requirements of modules that are not installed."""
        return tuple(pip for module, pip in self.requires if not _found(module))


def _pairs(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(pair, tuple) and [type(part) for part in pair] == [str, str] for pair in value
    )


_TYPES = {
    "str": (str, "a text"),
    "bool": (bool, "True or False"),
    "int": (int, "a whole number"),
    "Reference | None": (Reference | None, "a Reference"),
    "tuple[tuple[str, str], ...]": (tuple, "pairs such as (('scipy', 'scipy>=1.11'),)"),
}


def _of_type(value: Any, declared: str) -> bool:
    if declared not in _TYPES:  # a field that a plugin's own kind of record adds
        return True
    expected = _TYPES[declared][0]
    return _pairs(value) if expected is tuple else isinstance(value, expected)


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the parent package is absent, or half imported
        return False


@dataclass(frozen=True)
class SolverRecord(Record):
    """A solver: its order, whether it chooses its steps, whether it solves equations.

    `per_sample` says that it takes per-sample steps, `differentiable` that its steps are made of
    torch operations, `fixed_steps` that it runs with given steps too, `takes_pairs` that it takes
    no other state than a pair (q, v) with q' = v.
    """

    kind: ClassVar[str] = "solver"

    order: int
    adaptive: bool
    implicit: bool = False
    per_sample: bool = False
    differentiable: bool = True
    fixed_steps: bool = True
    takes_pairs: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.order, int) and self.order >= 1):
            raise ArgumentError(
                f"the order of {self.name!r} is {self.order!r}; it is a whole number from 1"
            )


@dataclass(frozen=True)
class GradientRecord(Record):
    """A gradient method; `exact` says that it differentiates the discrete solve itself."""

    kind: ClassVar[str] = "gradient"

    exact: bool


@dataclass(frozen=True)
class ModelRecord(Record):
    """A model; `fits` is the kind of task that it serves, `solves` whether it solves an ODE."""

    kind: ClassVar[str] = "model"

    fits: str
    solves: bool


@dataclass(frozen=True)
class TaskRecord(Record):
    """A task; `fits` is the kind of model it takes, `needs_data` that it has no embedded data.

    `state_size` is the number of entries of one sample's ODE state, for planning.
    """

    kind: ClassVar[str] = "task"

    fits: str
    default_model: str
    needs_data: bool = False
    state_size: int = 1


@dataclass(frozen=True)
class ExecutorRecord(Record):
    """A way to run the cells of a benchmark."""

    kind: ClassVar[str] = "executor"


@dataclass(frozen=True)
class CommandRecord(Record):
    """A subcommand of `ode`; `summary` is its help line and `target` a function for typer."""

    kind: ClassVar[str] = "command"
    _pattern: ClassVar[re.Pattern[str]] = _COMMAND


@dataclass(frozen=True)
class DiagnosticRecord(Record):
    """What a package tells `ode doctor`; `target()` returns a mapping from what to how it is."""

    kind: ClassVar[str] = "diagnostic"


RECORD_TYPES: dict[str, type[Record]] = {
    record_type.kind: record_type
    for record_type in (
        SolverRecord,
        GradientRecord,
        ModelRecord,
        TaskRecord,
        ExecutorRecord,
        CommandRecord,
        DiagnosticRecord,
    )
}
