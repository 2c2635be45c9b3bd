"""`ode report`: tables and plots of stored results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ode_tasks.report.writer import write_sections

if TYPE_CHECKING:
    from ode_core.console import Output


def report(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="A folder that runs or a benchmark wrote to.")],
) -> None:
    """Write tables, plots and a page of the results in a folder, and show what they say."""
    output: Output = ctx.obj
    written, sections = write_sections(directory, output)
    if output.json:
        output.rows([{"file": str(path), "status": "ok", "reason": ""} for path in written], ())
        return
    for section in sections:
        for sentence in section.sentences:
            output.note(sentence)
        for table in section.tables:
            output.rows(table.rows, table.columns, table.title)
            for note in table.notes:
                output.note(note)
    output.rows([{"written": str(path)} for path in written], ("written",))
