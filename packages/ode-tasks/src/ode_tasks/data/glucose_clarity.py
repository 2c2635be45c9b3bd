"""Glucose readings as the CSV file that Dexcom Clarity exports for one person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.errors import DataError
from ode_tasks.data.glucose_rows import MG_DL_PER_MMOL_L, Parsed, Row, cells, checked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

READING = "egv"
"""The event type of a sensor reading (estimated glucose value)."""

LIMITS = {"low": 40.0, "high": 400.0}
"""Ends of the sensor's range in mg/dL: the export writes a word for a reading beyond them."""

_COLUMNS = {"time": "timestamp", "event": "event type", "glucose": "glucose value"}
_HEADER_WITHIN = 40


def fits(content: str) -> bool:
    """Return whether the text has a header line of such an export near its start."""
    return any(_is_header(line.lower()) for line in content.splitlines()[:_HEADER_WITHIN])


def parse(path: Path, content: str) -> Parsed:
    """Return the sensor readings (event type EGV) of a Clarity export.

    The subject is the file's name without its ending: names and birthdays in the file are not
    read. mmol/L, told by the column's name, is multiplied by 18.016; `Low` and `High` become 40 and
    400 mg/dL, which a note says. Raises DataError for a missing column and for rows that cannot be
    used.
    """
    lines = cells(path, content)
    start = next(i for i, (_, row) in enumerate(lines) if _is_header(",".join(row).lower()))
    header = [name.lower() for name in lines[start][1]]
    time, event, glucose = (_place(path, header, name) for name in _COLUMNS.values())
    unit = MG_DL_PER_MMOL_L if "mmol" in header[glucose] else 1.0
    rows, replaced = [], dict.fromkeys(LIMITS, 0)
    for line, row in lines[start + 1 :]:
        padded = row + [""] * (len(header) - len(row))
        if padded[event].lower() != READING:
            continue
        value = padded[glucose]
        word = value.lower()
        if word in LIMITS:
            replaced[word] += 1
            value = repr(LIMITS[word] / unit)
        rows.append(Row(line, path.stem, padded[time], value))
    if not rows:
        raise DataError(f"{path} is a Clarity export without a line of event type EGV")
    notes = tuple(
        f"{path.name}: {count} readings {word.capitalize()!r} count as {LIMITS[word]:.0f} mg/dL"
        for word, count in replaced.items()
        if count
    )
    return Parsed(checked(path, rows, unit=unit), notes)


def _is_header(line: str) -> bool:
    return sum(name in line for name in _COLUMNS.values()) > 1


def _place(path: Path, header: Sequence[str], name: str) -> int:
    for place, column in enumerate(header):
        if column.startswith(name):
            return place
    raise DataError(
        f"{path} looks like a Dexcom Clarity export but has no column {name!r}; its columns are "
        f"{', '.join(header)}; export it again, or write a CSV subject,time,glucose_mg_dl"
    )
