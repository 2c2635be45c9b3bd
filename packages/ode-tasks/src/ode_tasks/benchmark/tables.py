"""What `ode benchmark` shows: the plan before, the outcomes after, and what they cost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ode_tasks.benchmark.cell import IDENTITY, PLANNED_STATUSES
from ode_tasks.benchmark.estimate import spoken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ode_core.console import Output
    from ode_tasks.benchmark.cell import Row
    from ode_tasks.benchmark.estimate import Times
    from ode_tasks.benchmark.plan import Planned


def show_plan(
    planned: Sequence[Planned], stored: Mapping[str, Row], times: Times, output: Output
) -> None:
    """Write the cells, what has an outcome, and what each of the others may take."""
    rows = []
    for item in planned:
        row = item.cell.row(item.status or "planned", item.reason)
        found = stored.get(item.cell.key)
        if found is not None and found["status"] not in PLANNED_STATUSES:
            row |= {"status": found["status"], "reason": found["reason"] or "stored"}
        elif not item.status:
            row["expected_seconds"] = times.seconds(item.cell)[0]
        rows.append(row)
    expected = ("expected_seconds",) if any(row.get("expected_seconds") for row in rows) else ()
    output.rows(rows, ("cell", *varying(rows), "status", *expected, "reason"))
    count = Counter(row["status"] for row in rows)
    output.note(
        f"{len(rows)} cells: " + ", ".join(f"{number} {name}" for name, number in count.items())
    )


def show(rows: Sequence[Row], output: Output) -> None:
    """Write the table of all cells and, for people, each reason once with the cells it is of."""
    shown = [{k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in rows]
    for row in shown:
        row["evaluations"] = row.get("f_forward")
    measured = ("status", "score_name", "score", "solver_error", "evaluations", "seconds")
    if not output.json:
        shown = [row for row in shown if row["task"]]  # a lost plugin is among the reasons
    output.rows(shown, (*varying(shown), *measured))
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["reason"]:
            kind = (row["task"], row["status"], row["reason"])
            reasons.setdefault(kind, []).append(row["solver"] or row["model"])
    if reasons and not output.json:
        console = output.console()
        console.print()
        for (task, status, reason), names in reasons.items():
            where = f"{task} × {', '.join(dict.fromkeys(names))}: " if task else ""
            console.print(f"{where}{status.replace('_', ' ')}, {reason}", soft_wrap=True)


def cost(own: Sequence[float], wall: float, how: Any) -> str:
    """Return what the cells took, each for itself and all together."""
    workers, lost = getattr(how, "workers", 0), getattr(how, "lost", 0)
    at_once = f" on {workers} workers" if workers else ""
    replaced = f"; {lost} workers were lost and replaced" if lost else ""
    return (
        f"ran {len(own)} cells in {wall:.1f} s ({spoken(wall)}){at_once}; "
        f"their own times are {sum(own):.1f} s together{replaced}"
    )


def varying(rows: Sequence[Row]) -> list[str]:
    """Return task, solver and those other parts of a cell's name that differ within a task."""
    return [
        field
        for field in IDENTITY
        if field in ("task", "solver")
        or len({(row["task"], row.get(field)) for row in rows}) > len({row["task"] for row in rows})
    ]
