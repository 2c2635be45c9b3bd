"""The report: everything that it leaves in a folder of results."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ode_core.errors import DataError
from ode_tasks.report.charts import charts
from ode_tasks.report.groups import sets
from ode_tasks.report.page import page
from ode_tasks.report.plots import draw
from ode_tasks.report.rows import read
from ode_tasks.report.sections import sections
from ode_tasks.report.tables import histories, table

if TYPE_CHECKING:
    import pandas as pd

    from ode_core.console import Output
    from ode_tasks.report.section import Section

MANIFEST = "report.json"
PLOTS = "plots"


def write(directory: Path, output: Output) -> list[Path]:
    """Write the report and return its files' paths; raises what `write_sections` raises."""
    return write_sections(directory, output)[0]


def write_sections(directory: Path, output: Output) -> tuple[list[Path], list[Section]]:
    """Write tables, plots and `index.html` beside the results.

    Return the files' paths and the sections.

    Only files that an earlier report wrote are replaced. A sentence on each result that could not
    be read, and on where the page is, goes to the output's notes. Raises DataError where there are
    no results, where the folder cannot be written to, or where one of the report's names is taken.
    """
    found = read(directory)
    made = sections(found.results)
    found.problems.extend(problem for section in made for problem in section.problems)
    images = {plot.name: plot for section in made for plot in section.plots}
    common = [c for c in charts(sets(found.results)) if f"{c.name}.png" not in images]
    for problem in found.problems:
        output.note(f"left out: {problem}")
    results = table(found.results)
    files = {
        "results.csv": results.to_csv(index=False).encode(),
        "results.parquet": _parquet(results),
        "history.parquet": _parquet(histories(found.results)),
        **{f"{PLOTS}/{chart.name}.png": draw(chart) for chart in common},
        **{f"{PLOTS}/{name}": plot.png for name, plot in images.items()},
    }
    words = [section.markdown() for section in made if section.tables or section.sentences]
    if words:
        files["study.md"] = "\n".join(words).encode()
    files["index.html"] = page(directory, found, made, list(images.values()), common).encode()
    try:
        _replace(directory, files)
    except OSError as error:
        raise DataError(f"the report could not be written to {directory}: {error}") from error
    output.note(f"report: {directory / 'index.html'}")
    return [directory / name for name in files], made


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _replace(directory: Path, files: dict[str, bytes]) -> None:
    """Write the files; those of the last report that are no longer made are removed."""
    manifest = directory / MANIFEST
    ours = _ours(manifest)
    for name in files:
        if (directory / name).exists() and name not in ours:
            raise DataError(
                f"{directory / name} was not written by a report, so it is not replaced; move it "
                "away and run ode report again"
            )
    _write(manifest, json.dumps({"report": sorted(files.keys() | ours)}, indent=1).encode())
    for name, content in files.items():
        _write(directory / name, content)
    for name in ours - files.keys():
        (directory / name).unlink(missing_ok=True)
    _write(manifest, json.dumps({"report": sorted(files)}, indent=1).encode())


def _ours(manifest: Path) -> set[str]:
    if not manifest.exists():
        return set()
    try:
        names = json.loads(manifest.read_text(encoding="utf-8"))["report"]
        return {name for name in names if not Path(name).is_absolute() and ".." not in name}
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"{manifest} was not written by a report; move it away and run ode report again"
        ) from None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)  # a temporary file is its owner's alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
