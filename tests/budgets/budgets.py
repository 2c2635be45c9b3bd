"""What every solver of the suite may cost beside f: the committed counts, and how they are held."""

from __future__ import annotations

import json
from pathlib import Path

from ode_core import registry
from ode_core.testing.cost import rows_of

ROOT = Path(__file__).resolve().parents[2]
COUNTS = Path(__file__).with_name("budgets.json")
PAGE = ROOT / "docs" / "budgets.md"
WRITE = "python -m tests.budgets.write"

COLUMNS = ("operations", "read", "written", "allocations", "allocated", "synchronisations")
# Below the rounding of the stored numbers.
_SLACK = 0.011


def solvers():
    """The suite's own solvers whose steps are made of torch operations."""
    return [
        name
        for name, record in registry.solvers.items()
        if record.package == "ode-solvers" and record.differentiable
    ]


def measured(solver):
    """Counts of a name or an object by what is counted: {"shared step": {"operations": 1}}."""
    return {
        f"{row['stepping']} {row['of']}": {column: row[column] for column in COLUMNS}
        for row in rows_of(solver)
        if row["status"] == "ok"
    }


def stored():
    return json.loads(COUNTS.read_text())


def changes(name, found, allowed):
    """Sentences on what has risen, and on what has fallen, of one solver."""
    risen, fallen = [], []
    for cell in sorted(found.keys() | allowed.keys()):
        if cell not in allowed:
            risen.append(f"{name}, {cell}: has no budget; {WRITE} gives it one")
        elif cell not in found:
            fallen.append(f"{name}, {cell}: is not counted any more")
        else:
            for column in COLUMNS:
                now, before = found[cell][column], allowed[cell][column]
                text = f"{name}, {cell}: {column} {before:g} -> {now:g}"
                if now > before + _SLACK:
                    risen.append(text)
                elif now < before - _SLACK:
                    fallen.append(text)
    return risen, fallen
