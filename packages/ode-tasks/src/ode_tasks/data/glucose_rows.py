"""What the loaders of glucose readings share: a file's text, its cells, the checks of a row."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ode_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MG_DL_PER_MMOL_L = 18.016

HIGHEST = 1000.0
_SHOWN = 5
_LOWEST_MEDIAN = 35.0


class Row(NamedTuple):
    """One reading as it stands in the file; `line` counts from 1."""

    line: int
    subject: str
    time: str
    glucose: str


class Parsed(NamedTuple):
    """What a loader returns of one file.

    `readings` has the columns subject, time (without zone), glucose (mg/dL) and where (file and
    line); `notes` say in a sentence each what was done to the data. `taken` has the columns
    subject, time, carbohydrate (g) and insulin (U), None where the file keeps no record of them.
    """

    readings: pd.DataFrame
    notes: tuple[str, ...] = ()
    taken: pd.DataFrame | None = None


def text(path: Path) -> str:
    """Return the text of a UTF-8 file; raises DataError for an empty file or another encoding."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not raw.strip():
        raise DataError(f"{path} is empty; a file of glucose readings was expected")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {raw[error.start]:#04x} at position {error.start}); "
            "save it again with the encoding UTF-8"
        ) from None


def cells(path: Path, content: str) -> list[tuple[int, list[str]]]:
    """Return the lines of a CSV that are not blank, as line number and stripped cells."""
    reader = csv.reader(io.StringIO(content, newline=""))
    rows = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV file ({error})") from None
    return rows


def checked(
    path: Path, rows: Sequence[Row], *, unit: float = 1.0, time_format: str = "ISO8601"
) -> pd.DataFrame:
    """Return the rows as times and mg/dL, `unit` being the mg/dL in one unit of the file.

    Times with an offset from UTC become UTC, others stay as they are. Raises DataError for no rows,
    for rows without a subject, time or number, and for values that no sensor can have measured,
    naming the first lines and how many there are.
    """
    if not rows:
        raise DataError(f"{path} holds no glucose readings; it has a header and nothing below")
    frame = pd.DataFrame(rows)
    times = pd.to_datetime(frame["time"], format=time_format, errors="coerce", utc=True)
    glucose = unit * pd.to_numeric(frame["glucose"], errors="coerce").astype("float64")
    faults = {
        "subject": frame["subject"] == "",
        "time": times.isna(),
        "glucose": ~np.isfinite(glucose),
    }
    _refuse_unreadable(path, rows, pd.DataFrame(faults))
    _refuse_implausible(path, rows, glucose)
    return pd.DataFrame(
        {
            "subject": frame["subject"],
            "time": times.dt.tz_localize(None).astype("datetime64[ms]"),
            "glucose": glucose,
            "where": path.name + ":" + frame["line"].astype(str),
        }
    )


def stamped(path: Path, rows: Sequence[Row]) -> pd.DataFrame:
    """Return subject and time of rows whose reading is of no interest; else like `checked`."""
    frame = pd.DataFrame(rows)
    times = pd.to_datetime(frame["time"], format="ISO8601", errors="coerce", utc=True)
    faults = {"subject": frame["subject"] == "", "time": times.isna()}
    _refuse_unreadable(path, rows, pd.DataFrame(faults))
    times = times.dt.tz_localize(None).astype("datetime64[ms]")
    return pd.DataFrame({"subject": frame["subject"], "time": times})


def _refuse_unreadable(path: Path, rows: Sequence[Row], faults: pd.DataFrame) -> None:
    bad = np.flatnonzero(faults.any(axis=1))
    if not len(bad):
        return
    first = faults.idxmax(axis=1)
    shown = [
        f"line {rows[i].line} ({first[i]} {getattr(rows[i], first[i])!r})" for i in bad[:_SHOWN]
    ]
    raise DataError(
        f"{path}: {len(bad)} of {len(rows)} rows cannot be read: {listed(shown, len(bad))}; "
        "correct or remove these lines (times are ISO 8601, such as 2024-03-01T08:05:00, and a "
        "missing reading is a line left out)"
    )


def _refuse_implausible(path: Path, rows: Sequence[Row], glucose: pd.Series) -> None:
    median = float(glucose.median())
    if 0 < median < _LOWEST_MEDIAN:
        raise DataError(
            f"{path}: half of the readings are below {median:.3g} mg/dL, so they seem to be in "
            "mmol/L; name the column glucose_mmol_l, or multiply them by 18.016"
        )
    bad = np.flatnonzero((glucose <= 0) | (glucose > HIGHEST))
    if len(bad):
        shown = [f"line {rows[i].line} ({rows[i].glucose})" for i in bad[:_SHOWN]]
        raise DataError(
            f"{path}: {len(bad)} of {len(rows)} readings are not plausible (0 or less, or above "
            f"{HIGHEST:.0f} mg/dL): {listed(shown, len(bad))}; correct or remove these lines"
        )


def listed(shown: Sequence[str], count: int) -> str:
    """Return the first few of `count` places as one phrase."""
    rest = f" and {count - len(shown)} more" if count > len(shown) else ""
    return ", ".join(shown) + rest
