"""One cell of the benchmark's matrix: what is run, and the key that follows from it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from ode_core import discovery

Row = dict[str, Any]

SCHEMA = 2
"""The number of a row's form. Rows of an earlier one are read by `upgraded`."""

OK = "ok"
SKIPPED = "skipped"
FAILED = "failed"
TIMEOUT = "timeout"
OOM = "oom"
CRASHED = "crashed"
PLUGIN_FAILED = "plugin_failed"

PLANNED_STATUSES = (SKIPPED, PLUGIN_FAILED)
"""What a plan decides without running anything; a later plan may decide otherwise."""

LOST_STATUSES = (FAILED, TIMEOUT, OOM, CRASHED)
"""What `--rerun failed` runs again."""

IDENTITY = ("task", "model", "solver", "gradient", "at", "preset", "seed", "device")


@dataclass(frozen=True)
class Cell:
    """What determines one result.

    `solver` and `gradient` are empty for a model that solves nothing. `rtol` and `atol`, or `dt`,
    are None where the task's preset gives them. `data` is where the user's data lies and
    `data_hash` what it holds, which alone is part of the key. `packages` holds pairs of a part
    (task, model, solver, gradient, torch) and the distribution and version that it came from,
    `sources` pairs of a part and a digest of its source. `machine` is empty unless the cell is run
    for its times, which are those of one machine.
    """

    task: str
    model: str
    solver: str
    gradient: str
    rtol: float | None = None
    atol: float | None = None
    dt: float | None = None
    preset: str = "smoke"
    seed: int = 0
    device: str = "cpu"
    data: str = ""
    data_hash: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    machine: str = ""

    @property
    def key(self) -> str:
        """Return 16 hexadecimal digits that change with anything that determines the result."""
        determining = {"schema": SCHEMA} | asdict(self)
        del determining["data"]
        text = json.dumps(determining, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def at(self) -> str:
        """Return the tolerance or the step as `rtol=0.001` or `dt=0.1`; empty for the preset's."""
        if self.dt is not None:
            return f"dt={self.dt:g}"
        return "" if self.rtol is None else f"rtol={self.rtol:g}"

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Return the kinds and names that this cell needs of the registry."""
        named = ("task", "model", "solver", "gradient")
        return tuple((kind, getattr(self, kind)) for kind in named if getattr(self, kind))

    @property
    def label(self) -> str:
        """Return the words by which a person knows the cell."""
        parts = (self.task, self.model, self.solver, self.gradient, self.at)
        return " × ".join(part for part in parts if part) or dict(self.packages).get("plugin", "")

    def row(self, status: str, reason: str = "", **fields: Any) -> Row:
        """Return the row of this cell with an outcome."""
        files = os.environ.get(discovery.ENV_FILES, "")
        return (
            {"schema": SCHEMA, "cell": self.key}
            | {field: getattr(self, field) for field in IDENTITY}
            | {
                "data": self.data or None,
                "data_hash": self.data_hash,
                "packages": dict(self.packages),
                "sources": dict(self.sources),
                "timed_on": self.machine,
                "plugin_files": [path for path in files.split(os.pathsep) if path],
                "status": status,
                "reason": reason,
            }
            | {name: value for name in ("rtol", "atol", "dt") if (value := getattr(self, name))}
            | fields
        )


def identity(row: Row) -> tuple[Any, ...]:
    """Return what a cell is apart from its data and the versions it ran with."""
    return tuple(row.get(field) for field in (*IDENTITY, "timed_on"))


def upgraded(row: Row) -> Row:
    """Return a row of any schema up to this one in the form of this one."""
    if row.get("schema", 1) < 2:  # before tolerances and steps were planned
        row = {"at": "", "data_hash": "", "sources": {}, "timed_on": ""} | row
    return row
