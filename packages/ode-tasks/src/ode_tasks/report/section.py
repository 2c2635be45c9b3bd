"""What a study's page shows beside its runs: tables with sentences on how to read them, and plots.

A function from the results to sections, named in `ode_tasks.report.sections`, is all that a task
needs to have tables and plots of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Plot(NamedTuple):
    """A finished plot: its file's name, the task it belongs to, what it shows, and the image."""

    name: str
    task: str
    caption: str
    png: bytes
    broad: bool = False


@dataclass(frozen=True)
class Table:
    """A title, rows under columns, all of them text, and sentences on how to read it.

    Columns with the word "study" in them hold figures that were printed elsewhere.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"## {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + " --- |" * len(self.columns))
        lines += [
            "| " + " | ".join(row[column].replace("|", "\\|") for column in self.columns) + " |"
            for row in self.rows
        ]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])


@dataclass(frozen=True)
class Section:
    """Tables and plots of one task, and a sentence on each thing that could not be shown.

    `sentences` say what follows from them; they come first on the page.
    """

    task: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    problems: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return sentences and tables as Markdown."""
        sentences = " ".join(self.sentences)
        tables = (table.markdown() for table in self.tables)
        return "\n".join([*([sentences, ""] if sentences else ()), *tables])
