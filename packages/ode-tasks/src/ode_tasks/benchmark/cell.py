"""One cell of the benchmark's matrix: what is run, and the key that follows from it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from ode_core import discovery

Row = dict[str, Any]

SCHEMA = 1

OK = "ok"
SKIPPED = "skipped"
FAILED = "failed"
TIMEOUT = "timeout"
CRASHED = "crashed"
PLUGIN_FAILED = "plugin_failed"

PLANNED_STATUSES = (SKIPPED, PLUGIN_FAILED)
"""What a plan decides without running anything; a later plan may decide otherwise."""

LOST_STATUSES = (FAILED, TIMEOUT, CRASHED)
"""What `--rerun failed` runs again."""

IDENTITY = ("task", "model", "solver", "gradient", "preset", "seed", "device")


@dataclass(frozen=True)
class Cell:
    """What determines one result.

    `solver` and `gradient` are empty for a model that solves nothing. `packages` holds pairs of a
    part (task, model, solver, gradient, torch) and the distribution and version that it came from.
    """

    task: str
    model: str
    solver: str
    gradient: str
    preset: str = "smoke"
    seed: int = 0
    device: str = "cpu"
    data: str = ""
    packages: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Return 16 hexadecimal digits that change with anything that determines the result."""
        text = json.dumps({"schema": SCHEMA} | asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Return the kinds and names that this cell needs of the registry."""
        named = ("task", "model", "solver", "gradient")
        return tuple((kind, getattr(self, kind)) for kind in named if getattr(self, kind))

    @property
    def label(self) -> str:
        """Return the words by which a person knows the cell."""
        parts = (self.task, self.model, self.solver, self.gradient)
        return " × ".join(part for part in parts if part) or dict(self.packages).get("plugin", "")

    def row(self, status: str, reason: str = "", **fields: Any) -> Row:
        """Return the row of this cell with an outcome."""
        files = os.environ.get(discovery.ENV_FILES, "")
        return (
            {"schema": SCHEMA, "cell": self.key}
            | {field: getattr(self, field) for field in IDENTITY}
            | {
                "data": self.data or None,
                "packages": dict(self.packages),
                "plugin_files": [path for path in files.split(os.pathsep) if path],
                "status": status,
                "reason": reason,
            }
            | fields
        )


def identity(row: Row) -> tuple[Any, ...]:
    """Return what a cell is apart from its data and the versions it ran with."""
    return tuple(row.get(field) for field in IDENTITY)
