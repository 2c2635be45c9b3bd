"""Glucose readings as an OhioT1DM XML file (Marling and Bunescu 2020), one person a file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.parsers import expat

from ode_core.errors import DataError
from ode_tasks.data.glucose_rows import Parsed, Row, checked

if TYPE_CHECKING:
    from pathlib import Path

_TIME = "%d-%m-%Y %H:%M:%S"


def fits(content: str) -> bool:
    """Return whether the text is XML."""
    return content.lstrip().startswith("<")


def parse(path: Path, content: str) -> Parsed:
    """Return the readings of `<patient id=""><glucose_level><event ts="" value=""/>`, in mg/dL.

    Other elements of a patient are not read. Raises DataError for XML that is broken or another
    kind of document, and for events that cannot be used.
    """
    reader = _Reader()
    try:
        reader.parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{path} is not well-formed XML: {error}") from None
    if reader.patient is None or not reader.levels:
        raise DataError(
            f"{path} is XML whose root is <{reader.path[0]}>, {reader.levels} <glucose_level> "
            "inside; expected is OhioT1DM: <patient id=...> with a <glucose_level> of events"
        )
    rows = [Row(line, reader.patient, ts, value) for line, ts, value in reader.events]
    return Parsed(checked(path, rows, time_format=_TIME))


class _Reader:
    """Collects the events below patient/glucose_level with the lines they stand on."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.path: list[str] = []
        self.open = 0
        self.patient: str | None = None
        self.levels = 0
        self.events: list[tuple[int, str, str]] = []

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        del self.path[self.open :]
        self.path.append(name)
        self.open += 1
        if self.path == ["patient"]:
            self.patient = attributes.get("id", "").strip()
        elif self.path == ["patient", "glucose_level"]:
            self.levels += 1
        elif self.path == ["patient", "glucose_level", "event"]:
            line = self.parser.CurrentLineNumber
            self.events.append((line, attributes.get("ts", ""), attributes.get("value", "")))

    def _end(self, name: str) -> None:
        self.open -= 1
