"""Glucose readings as a tidy CSV file: `subject,time,glucose_mg_dl`, one reading a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.errors import DataError
from ode_tasks.data.glucose_rows import MG_DL_PER_MMOL_L, Parsed, Row, cells, checked

if TYPE_CHECKING:
    from pathlib import Path

_UNITS = {"glucose_mg_dl": 1.0, "glucose_mmol_l": MG_DL_PER_MMOL_L}


def parse(path: Path, content: str) -> Parsed:
    """Return the readings of a tidy CSV file, whose other columns are ignored.

    The glucose column is `glucose_mg_dl`, or `glucose_mmol_l`, which is multiplied by 18.016.
    Raises DataError for a missing column and for rows that cannot be used.
    """
    (_, header), *lines = cells(path, content)
    columns = [name.lower() for name in header]
    units = [name for name in _UNITS if name in columns]
    missing = [name for name in ("subject", "time") if name not in columns]
    missing += [] if units else ["glucose_mg_dl"]
    if missing:
        raise DataError(
            f"{path} has no column {' and no column '.join(missing)}; its first line is "
            f"{','.join(header)[:200]!r}, and expected is the header subject,time,glucose_mg_dl, a "
            "Dexcom Clarity export or an OhioT1DM XML file"
        )
    places = [columns.index(name) for name in ("subject", "time", units[0])]
    rows = [Row(line, *_pick(row, places, len(header))) for line, row in lines]
    return Parsed(checked(path, rows, unit=_UNITS[units[0]]))


def _pick(row: list[str], places: list[int], width: int) -> list[str]:
    """Return the cells at these places, empty where the line is too short.

    In a line that is too long, as a decimal comma makes it, the last one holds all that follow, so
    that it is refused and shown.
    """
    picked = [row[place] if place < len(row) else "" for place in places]
    if any(row[width:]):
        picked[-1] = ",".join(row[places[-1] :])
    return picked
