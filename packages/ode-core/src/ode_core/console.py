"""What commands write: a table for people or JSON for programs, never both."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Output:
    """Where a command's words go: `json` makes rows one array on stdout, `quiet` mutes notes."""

    json: bool = False
    quiet: bool = False
    debug: bool = False

    def rows(
        self, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str = ""
    ) -> None:
        """Write rows as a table with the given columns, or all their fields as JSON."""
        rows = list(rows)
        if self.json:
            json.dump([_plain(row) for row in rows], sys.stdout, default=str, allow_nan=False)
            sys.stdout.write("\n")
            return
        console = self.console()
        table = Table(*columns, title=title or None, box=None, pad_edge=False, title_justify="left")
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        console.print(table)

    def note(self, text: str) -> None:
        """Write a sentence for people on stderr, unless it was asked to be quiet."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def console(self, *, stderr: bool = False) -> Console:
        """Return a rich console; off a terminal its lines are never cut to a width."""
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else 10_000
        return Console(file=stream, width=width, highlight=False, markup=False, soft_wrap=False)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no NaN and no infinity; null is what readers in other languages take.
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _cell(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
