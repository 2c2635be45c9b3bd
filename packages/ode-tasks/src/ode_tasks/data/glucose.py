"""Glucose readings of people: a tidy CSV, a Dexcom Clarity export, OhioT1DM XML, or a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ode_core.errors import DataError
from ode_tasks.data import glucose_clarity, glucose_csv, glucose_ohio
from ode_tasks.data.glucose_rows import listed, text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ode_tasks.data.glucose_rows import Parsed

_SUFFIXES = (".csv", ".xml")
_SHOWN = 5

KINDS = ("carbohydrate (g)", "insulin (U)")
"""The kinds of intake that a series can have."""


class Taken(NamedTuple):
    """What one person took in: `times` `[E]` ascending; `amounts` `[E, 2]`, see `KINDS`."""

    times: NDArray[np.datetime64]
    amounts: NDArray[np.float64]


class Series(NamedTuple):
    """One person's readings: `times` ascending without repeats, `glucose` float64 in mg/dL.

    `taken` are the meals and the insulin on record, None where nobody kept one.
    """

    subject: str
    times: NDArray[np.datetime64]
    glucose: NDArray[np.float64]
    taken: Taken | None = None


class Cohort(NamedTuple):
    """The people, in the order of their names, and what was done to their data."""

    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()


def load(path: Path) -> Cohort:
    """Return the readings in a file, or in every .csv and .xml file below a folder.

    The format is told by the content. Readings of one subject from several files are joined; lines
    out of order are sorted and repeated ones merged, and a note says how many. Raises DataError
    for a path, a file or a row that cannot be used, and for two values of one subject at one time.
    """
    parsed = [_parse(file) for file in _files(path)]
    notes = [note for part in parsed for note in part.notes]
    readings = pd.concat([part.readings for part in parsed], ignore_index=True)
    backward = int((readings.groupby("subject")["time"].diff() < pd.Timedelta(0)).sum())
    if backward:
        notes.append(f"{backward} readings stood before an earlier one and were sorted")
    repeated = int(readings.duplicated(["subject", "time", "glucose"]).sum())
    if repeated:
        notes.append(f"{repeated} repeated readings were merged")
        readings = readings.drop_duplicates(["subject", "time", "glucose"])
    _refuse_contradictions(path, readings)
    readings = readings.sort_values(["subject", "time"])
    taken = _taken([part.taken for part in parsed if part.taken is not None])
    series = [
        Series(
            str(subject), rows["time"].to_numpy(), rows["glucose"].to_numpy(), taken.get(subject)
        )
        for subject, rows in readings.groupby("subject", sort=True)
    ]
    return Cohort(tuple(series), tuple(notes))


def _taken(records: list[pd.DataFrame]) -> dict[Any, Taken]:
    """Return each person's intakes; those of one moment, in several lines or files, are added."""
    if not any(len(record) for record in records):
        return {}
    every = pd.concat(records).groupby(["subject", "time"], sort=True).sum().reset_index("time")
    return {
        subject: Taken(
            rows["time"].to_numpy(), rows[["carbohydrate", "insulin"]].to_numpy(dtype=np.float64)
        )
        for subject, rows in every.groupby(level="subject")
    }


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"no file and no folder is at {path}; --data takes glucose readings")
    below = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = [file for file in below if file.suffix.lower() in _SUFFIXES]
    if not files:
        found = listed([file.name for file in below[:_SHOWN]], len(below)) or "nothing"
        raise DataError(
            f"the folder {path} holds no .csv and no .xml file of glucose readings; found: {found}"
        )
    return files


def _parse(path: Path) -> Parsed:
    content = text(path)
    if glucose_ohio.fits(content):
        return glucose_ohio.parse(path, content)
    if glucose_clarity.fits(content):
        return glucose_clarity.parse(path, content)
    return glucose_csv.parse(path, content)


def _refuse_contradictions(path: Path, readings: pd.DataFrame) -> None:
    bad = readings[readings.duplicated(["subject", "time"], keep=False)]
    if bad.empty:
        return
    shown = [
        f"{row.where} ({row.subject}, {row.time}, {row.glucose:g} mg/dL)"
        for row in bad.sort_values(["subject", "time"]).head(_SHOWN).itertuples()
    ]
    raise DataError(
        f"{path}: {len(bad)} readings contradict each other, two values for one subject at one "
        f"time: {listed(shown, len(bad))}; keep one of each"
    )
