"""Glucose readings as a tidy CSV file: `subject,time,glucose_mg_dl`, meals and insulin beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ode_core.errors import DataError
from ode_tasks.data.glucose_rows import (
    MG_DL_PER_MMOL_L,
    Parsed,
    Row,
    cells,
    checked,
    listed,
    stamped,
)

if TYPE_CHECKING:
    from pathlib import Path

_TAKEN = {"carbohydrate_g": "carbohydrate", "insulin_u": "insulin"}
_SHOWN = 5
_UNITS = {"glucose_mg_dl": 1.0, "glucose_mmol_l": MG_DL_PER_MMOL_L}


def parse(path: Path, content: str) -> Parsed:
    """Return the readings of a tidy CSV file, and what was taken in where it has columns for that.

    The glucose column is `glucose_mg_dl`, or `glucose_mmol_l`, which is multiplied by 18.016.
    `carbohydrate_g` and `insulin_u`, one of them or both, are empty or 0 where nothing was taken;
    a line with one of them needs no reading. Other columns are ignored.
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
    kinds = {name: columns.index(name) for name in _TAKEN if name in columns}
    if not kinds:
        return Parsed(checked(path, rows, unit=_UNITS[units[0]]))
    taken = _taken(path, lines, kinds)
    readings = [row for row in rows if row.glucose or not taken.loc[row.line].any()]
    readable = checked(path, readings, unit=_UNITS[units[0]])
    eaten = [row for row in rows if taken.loc[row.line].any()]
    if not eaten:
        return Parsed(readable, taken=pd.DataFrame(columns=["subject", "time", *_TAKEN.values()]))
    amounts = taken.loc[[row.line for row in eaten]].reset_index(drop=True)
    return Parsed(readable, taken=pd.concat([stamped(path, eaten), amounts], axis=1))


def _taken(path: Path, lines: list[tuple[int, list[str]]], kinds: dict[str, int]) -> pd.DataFrame:
    """Return the amounts of each line, 0 where a cell is empty; refuses what is no amount."""
    frame = pd.DataFrame(0.0, index=[line for line, _ in lines], columns=list(_TAKEN.values()))
    for name, place in kinds.items():
        texts = pd.Series([row[place] if place < len(row) else "" for _, row in lines])
        amounts = pd.to_numeric(texts.where(texts != "", "0"), errors="coerce").to_numpy()
        bad = np.flatnonzero(~(amounts >= 0) | np.isinf(amounts))
        if len(bad):
            shown = [f"line {lines[i][0]} ({texts[i]!r})" for i in bad[:_SHOWN]]
            raise DataError(
                f"{path}: {len(bad)} cells of the column {name} are no amounts (numbers from 0, or "
                f"empty): {listed(shown, len(bad))}; correct or empty them"
            )
        frame[_TAKEN[name]] = amounts
    return frame


def _pick(row: list[str], places: list[int], width: int) -> list[str]:
    """Return the cells at these places, empty where the line is too short.

    In a line that is too long, as a decimal comma makes it, the last one holds all that follow, so
    that it is refused and shown.
    """
    picked = [row[place] if place < len(row) else "" for place in places]
    if any(row[width:]):
        picked[-1] = ",".join(row[places[-1] :])
    return picked
