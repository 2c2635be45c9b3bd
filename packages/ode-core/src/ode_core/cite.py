"""`ode cite`: the publications behind what a user has solved with, as words or for BibTeX."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from ode_core import registry
from ode_core.console import Output
from ode_core.errors import UnknownNameError
from ode_core.records import Record

_CATALOGUES: tuple[registry.Catalogue[Any], ...] = (
    registry.solvers,
    registry.gradients,
    registry.models,
    registry.tasks,
)


def cite(
    ctx: typer.Context,
    names: Annotated[
        list[str], typer.Argument(help="Registered names of solvers, gradients, models, tasks.")
    ],
    *,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Write entries for BibTeX.")] = False,
) -> None:
    """Show which publications to cite for what carries these names."""
    output: Output = ctx.obj
    found = [record for name in names for record in _named(name)]
    if output.json:
        output.rows([_row(record) for record in found], ())
        return
    console = output.console()
    for record in found:
        if record.source is None:
            output.note(f"the {record.kind} {record.name} names no publication")
        elif bibtex:
            console.print(record.source.bibtex(record.name), soft_wrap=True)
        else:
            console.print(f"{record.kind} {record.name}: {record.source.text}", soft_wrap=True)


def _named(name: str) -> list[Record]:
    found = [catalogue[name] for catalogue in _CATALOGUES if name in catalogue]
    if not found:
        known = {other for catalogue in _CATALOGUES for other in catalogue}
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(map(repr, nearest))}" if nearest else "; see ode list"
        raise UnknownNameError(
            f"no solver, gradient, model or task is named {name!r}{meant}", name, nearest
        )
    return found


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": record.kind, "name": record.name, "package": record.package}
    if record.source is not None:
        source = record.source
        row |= {"text": source.text, "link": source.link, "bibtex": source.bibtex(record.name)}
    return row
