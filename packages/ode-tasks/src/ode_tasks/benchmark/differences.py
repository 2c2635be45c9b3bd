"""How the rows of two stores differ, cell by cell."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_tasks.benchmark.cell import IDENTITY, OK, PLANNED_STATUSES, identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.benchmark.cell import Row

_CLOSE = 1e-9
_VALUES = ("score", "f_forward", "step_seconds", "step_ratio")


class Differences(NamedTuple):
    """One row for each cell that differs, and a sentence on all."""

    rows: list[Row]
    sentence: str


def differences(rows: Sequence[Row], others: Sequence[Row]) -> Differences:
    """Return what became of each cell from `others` to `rows`.

    Cells are the same by what is run, whatever versions and data it ran with; of several the latest
    counts. `kind` is "new", "gone", "broken" (ok before), "mended" (ok now), "status", "better",
    "worse" (where the row says which way is better), "changed" or "time", which is said only where
    the 95 % intervals of the step's ratio to its yardstick, or of its time on one machine, do not
    meet. Cells that were not run in either are left out.
    """
    now, before = _latest(rows), _latest(others)
    found = []
    for key in sorted(now.keys() | before.keys(), key=str):
        kind = _kind(now.get(key), before.get(key))
        if kind:
            found.append(_row(kind, now.get(key), before.get(key)))
    both = len(now.keys() & before.keys())
    count = Counter(row["kind"] for row in found)
    named = ", ".join(f"{number} {kind}" for kind, number in count.most_common())
    return Differences(found, f"{both} cells in both stores; {named or 'no difference'}")


def _latest(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    latest: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row.get("date") or ""):
        if row["status"] not in PLANNED_STATUSES:
            latest[identity(row)] = row
    return latest


def _kind(now: Row | None, before: Row | None) -> str:
    if now is None or before is None:
        return "new" if before is None else "gone"
    if now["status"] != before["status"]:
        return "mended" if now["status"] == OK else "broken" if before["status"] == OK else "status"
    if now["status"] != OK:
        return ""
    return _of_scores(now, before) or _of_times(now, before)


def _of_scores(now: Row, before: Row) -> str:
    score, other = now.get("score"), before.get("score")
    if score is None or other is None:
        return "" if score is other else "changed"
    if math.isclose(score, other, rel_tol=_CLOSE):
        return ""
    higher = now.get("higher_is_better")
    if higher is None:
        return "changed"
    return "better" if (score > other) == higher else "worse"


def _of_times(now: Row, before: Row) -> str:
    same_machine = now.get("machine_id") == before.get("machine_id")
    for name in ("step_ratio", *(("step_seconds",) if same_machine else ())):
        ends: list[Any] = [row.get(f"{name}_{e}") for row in (now, before) for e in ("low", "high")]
        if None in ends:
            continue
        low, high, other_low, other_high = ends
        if low > other_high or other_low > high:
            return "time"
    return ""


def _row(kind: str, now: Row | None, before: Row | None) -> Row:
    named: Row = now or before or {}
    row: Row = {"kind": kind} | {field: named.get(field) for field in IDENTITY}
    for name in (*_VALUES, "status"):
        row[name] = now and now.get(name)
        row[f"{name}_other"] = before and before.get(name)
    broken = kind in ("broken", "status") and now
    row["reason"] = now["reason"] if now and broken else ""
    return row
