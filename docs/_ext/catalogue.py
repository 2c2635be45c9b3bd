"""The directive `catalogue`: everything registered of a kind, with its source, as a table.

It reads the records, like `ode list`, so that a page cannot lack a name or cite another work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

import ode_core

if TYPE_CHECKING:
    from collections.abc import Callable

    from sphinx.application import Sphinx

    from ode_core.records import Record

CATALOGUES = {name: getattr(ode_core, name) for name in ("solvers", "gradients", "models", "tasks")}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


# What a kind's records say beside name, summary and source.
COLUMNS: dict[str, dict[str, Callable[[Any], str]]] = {
    "solvers": {
        "order": lambda r: str(r.order),
        "chooses steps": lambda r: _yes(r.adaptive),
        "implicit": lambda r: _yes(r.implicit),
        "per-sample": lambda r: _yes(r.per_sample),
    },
    "gradients": {"exact": lambda r: _yes(r.exact)},
    "models": {"fits": lambda r: r.fits, "solves an ODE": lambda r: _yes(r.solves)},
    "tasks": {"takes models for": lambda r: r.fits, "default model": lambda r: r.default_model},
}


def source(record: Record) -> str:
    """Return the publication in Markdown: who and when, with its address where it has one."""
    given = record.source
    if given is None:
        return ""
    families = [name.split(",")[0] for name in given.authors.split(" and ")]
    who = " and ".join(families) if len(families) < 3 else f"{families[0]} et al."
    shown = f"{who} {given.year}"
    return f'[{shown}]({given.link} "{given.title}")' if given.link else shown


class Catalogue(Directive):
    """A table of a catalogue, its suite's own records alone."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the parsed table."""
        kind = self.arguments[0]
        extra = COLUMNS[kind]
        lines = ["| " + " | ".join(["name", "what it is", *extra, "source"]) + " |"]
        lines.append("|" + " --- |" * (3 + len(extra)))
        for name, record in CATALOGUES[kind].items():
            if record.package.startswith("ode-"):
                cells = [f"`{name}`", record.summary, *(show(record) for show in extra.values())]
                lines.append("| " + " | ".join([*cells, source(record)]) + " |")
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, "records"), self.content_offset, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("catalogue", Catalogue)
    return {"parallel_read_safe": True}
