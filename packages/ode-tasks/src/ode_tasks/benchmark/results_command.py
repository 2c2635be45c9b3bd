"""`ode results`: what is stored, as a list, a comparison of two stores, or a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ode_core.errors import ArgumentError, DataError
from ode_tasks.benchmark.cell import IDENTITY
from ode_tasks.benchmark.differences import differences
from ode_tasks.benchmark.export import export, kind_of
from ode_tasks.benchmark.store import CELLS, Store
from ode_tasks.benchmark.tables import varying
from ode_tasks.benchmark.where import condition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.console import Output
    from ode_tasks.benchmark.cell import Row
    from ode_tasks.benchmark.index import Table

_MEASURED = ("status", "score", "solver_error", "f_forward", "seconds")
_COMPARED = ("kind", *IDENTITY, "score", "score_other", "step_ratio", "step_ratio_other", "reason")


def results(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="The folder of a benchmark.")] = Path(
        "benchmark"
    ),
    *,
    where: Annotated[
        str, typer.Option(help="A condition on the rows, as in \"status != 'ok'\".")
    ] = "",
    columns: Annotated[str, typer.Option(help="Names, separated by commas.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Rows to show; 0: all.")] = 50,
    compare: Annotated[Path | None, typer.Option(help="The folder of another benchmark.")] = None,
    to: Annotated[
        Path | None, typer.Option("--export", help="Write the rows to this .csv or .parquet.")
    ] = None,
) -> None:
    """List stored results, those that a condition holds for, or how two stores differ."""
    output: Output = ctx.obj
    if to is not None:
        _ = kind_of(to)  # what cannot be written is said before anything is read
    table = _read(directory, output)
    wanted = _chosen(columns, table)
    if compare is not None:
        other = _read(compare, output)
        _show_differences(_rows(table, where), _rows(other, where), output, limit)
    elif to is not None:
        rows = _rows(table, where)
        export([_flat(row) for row in rows], to, wanted)
        output.note(f"{len(rows)} rows written to {to}")
    elif output.json:
        output.rows(_rows(table, where), ())
    else:
        rows = _rows(table, where, (*IDENTITY, *_MEASURED, *wanted))
        shown = rows[:limit] if limit else rows
        output.rows(shown, wanted or (*varying(shown), *_MEASURED))
        output.note(_counts(rows, len(shown)))


def _read(directory: Path, output: Output) -> Table:
    if not (directory / CELLS).is_dir():
        raise DataError(
            f"{directory} holds no stored cells; ode benchmark --out {directory} makes some"
        )
    table = Store(directory).columns()
    for problem in table.problems:
        output.note(f"left out: {problem}")
    return table


def _chosen(columns: str, table: Table) -> list[str]:
    names = [name.strip() for name in columns.split(",") if name.strip()]
    for name in names:
        if name not in table.names:
            raise ArgumentError(
                f"--columns: no row has {name!r}; there are {', '.join(sorted(table.names))}"
            )
    return names


def _rows(table: Table, where: str, fields: Sequence[str] = ()) -> list[Row]:
    """Return the rows that the condition holds for, with all fields or some, in order."""
    holds = condition(where, table.names) if where else None
    wanted = {*fields, *holds.fields} if fields and holds else fields
    rows = table.rows(wanted or None)
    if holds is not None:
        rows = [row for row in rows if holds(row)]
    rows.sort(key=_place)
    return rows


def _place(row: Row) -> tuple[Any, ...]:
    texts = [row.get(name) or "" for name in ("task", "model", "solver", "gradient", "at")]
    return (*texts, row.get("seed") or 0, row.get("preset") or "", row.get("device") or "")


def _show_differences(
    rows: Sequence[Row], others: Sequence[Row], output: Output, limit: int
) -> None:
    found = differences(rows, others)
    if output.json:
        output.rows(found.rows, ())
        return
    shown = found.rows[:limit] if limit else found.rows
    wanted = [name for name in _COMPARED if any(row.get(name) not in (None, "") for row in shown)]
    output.rows(shown, wanted)
    output.note(found.sentence)


def _counts(rows: Sequence[Row], shown: int) -> str:
    count = Counter(row["status"] for row in rows)
    named = ", ".join(f"{number} {name}" for name, number in count.most_common())
    rest = f"; {shown} shown, --limit 0 shows all" if shown < len(rows) else ""
    return f"{len(rows)} cells: {named or 'none'}{rest}"


def _flat(row: Row) -> Row:
    """Return a row with the entries of its mappings as columns of their own."""
    flat: Row = {}
    for name, value in row.items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}.{key}": part for key, part in inner} or {name: value}
    return flat
