"""What the comparison leaves in a folder: rows as JSON, tables in Markdown, plots."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ode_tasks.benchmark.cell import OK
from ode_tasks.measure import machine
from ode_tasks.peers.compare import versions
from ode_tasks.peers.contest import BACKWARD, SUITE
from ode_tasks.peers.plot import draw_growth, draw_works, slopes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ode_tasks.peers.compare import Row

ROWS, TABLE, PICTURE, GROWTH_PICTURE = "peers.json", "peers.md", "peers.png", "growth.png"


def write(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Write rows, tables and plots into the folder and return the paths of the files."""
    out.mkdir(parents=True, exist_ok=True)
    facts = described(rows)
    (out / ROWS).write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    (out / TABLE).write_text(markdown(rows, facts))
    written = [out / ROWS, out / TABLE]
    for name, draw in ((PICTURE, draw_works), (GROWTH_PICTURE, draw_growth)):
        if draw(out / name, rows, facts):
            written.append(out / name)
    return written


def described(rows: Sequence[Row]) -> str:
    """Return the machine, the clock, threads and versions in one line."""
    done = [row for row in rows if row["status"] == OK]
    devices = ", ".join(dict.fromkeys(machine(str(row["device"])) for row in rows))
    threads = ", ".join(dict.fromkeys(f"{row['threads']} thread(s)" for row in rows))
    clocks = ", ".join(dict.fromkeys(str(row["clock"]) for row in done))
    rounds = max((row["rounds"] for row in done), default=0)
    names = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{devices}; {threads}; {clocks}, medians of {rounds} rounds; {names}"


def markdown(rows: Sequence[Row], facts: str) -> str:
    """Return the tables: in short, for each direction and device, and slopes of what grows."""
    parts = [facts + "."]
    single = [row for row in rows if not row["grows"]]
    short = summary(single)
    if short:
        parts.append("## In short")
        columns = {title: _number(title) for line in short for title in line}
        parts.append(_table(short, columns))
    for device in dict.fromkeys(row["device"] for row in single):
        for direction in dict.fromkeys(row["direction"] for row in single):
            some = [r for r in single if (r["device"], r["direction"]) == (device, direction)]
            if some:
                parts.append(f"## {direction.capitalize()}, {device}")
                parts.append(_table([r for r in some if r["status"] == OK], _WORKS))
                parts += _reasons(some)
    growth = slopes(rows)
    if growth:
        parts.append("## Cost as work grows")
        parts.append(_table(growth, _SLOPES))
    return "\n\n".join(parts) + "\n"


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return a line a work and kind of gradient: the suite over the floor, the peers over it.

    Of a peer's variants the fastest counts; the suite's is the one that it is compared by. In
    brackets is the ratio of times by call of f.
    """
    lines: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row["status"] != OK or "times_suite" not in row:
            continue
        key = row["device"], row["direction"], row["gradient_kind"], row["summary"]
        kind = f", {row['gradient_kind']}" if row["direction"] == BACKWARD else ""
        line = lines.setdefault(
            key, {"work": row["summary"], "passes": f"{row['direction']}{kind}, {row['device']}"}
        )
        if row["peer"] == SUITE:
            if row["base"]:
                line["suite × floor"] = row["over_floor"]
            continue
        ratio, a_call = row["times_suite"], row["times_suite_a_call"]
        before = line.get(row["peer"])
        if before is None or ratio < float(before.split()[0]):
            line[row["peer"]] = f"{ratio:.3g} ({a_call:.3g})"
    return list(lines.values())


_Columns = dict[str, "Callable[[Row], str]"]


def _number(name: str, digits: int = 3, scale: float = 1.0) -> Callable[[Row], str]:
    def shown(row: Row) -> str:
        value: Any = row.get(name)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return ""
        if not isinstance(value, float):
            return str(value)
        size = value * scale
        return f"{size:.0f}" if abs(size) >= 10**digits else f"{size:.{digits}g}"

    return shown


def _calls(row: Row) -> str:
    words = [row.get("f_forward"), row.get("f_backward") or None]
    return " + ".join(str(word) for word in words if word is not None)


def _ratio(row: Row) -> str:
    text = _number("times_suite")(row)
    return f"**{text}**" if text and row["peer"] != SUITE else text


_WORKS: _Columns = {
    "work": lambda row: str(row["summary"]),
    "solved by": lambda row: f"{row['peer']} {row['variant']}".replace("_", r"\_"),
    "ms": _number("seconds", 4, 1e3),
    "× suite": _ratio,
    "a call": _number("times_suite_a_call"),
    "× floor": _number("over_floor"),
    "µs a step beside f": _number("step_overhead", 3, 1e6),
    "calls of f": _calls,
    "steps": _number("steps"),
    "error": _number("error", 2),
    "gradient error": _number("gradient_error", 2),
    "compiling, s": _number("compile_seconds", 2),
}
_SLOPES: _Columns = {
    "what grows": lambda row: str(row["grows"]),
    "solved by": lambda row: f"{row['peer']} {row['variant']}".replace("_", r"\_"),
    "from": _number("least"),
    "to": _number("most"),
    "ms at the least": _number("first", 3, 1e3),
    "ms at the most": _number("last", 3, 1e3),
    "slope": _number("slope", 2),
    "steepest": _number("steepest", 2),
}


def _table(rows: Sequence[Row], columns: _Columns) -> str:
    cells = [{title: shown(row) for title, shown in columns.items()} for row in rows]
    titles = [title for title in columns if any(cell[title] for cell in cells)]
    lines = [titles, ["---"] * len(titles)]
    lines += [[cell[title] for title in titles] for cell in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Return a list of what could not be measured, each reason once with its works."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] != OK or row["reason"]:
            name = f"{row['peer']} {row['variant']}".strip()
            found.setdefault((name, row["reason"]), []).append(str(row["work"]))
    if not found:
        return []
    return ["\n".join(f"- {n} ({', '.join(w)}): {reason}" for (n, reason), w in found.items())]
