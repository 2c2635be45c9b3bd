"""`ode list`: what is installed, from which package, and what failed to load and why."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from ode_core import registry
from ode_core.console import Output

KINDS = ("solvers", "gradients", "models", "tasks", "executors", "commands", "plugins")


def list_command(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS))] = "",
) -> None:
    """List what is installed, from which package, and what failed to load and why."""
    if kind and kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}")
    output: Output = ctx.obj
    wanted = (kind,) if kind else KINDS
    records = [row for name in wanted if name != "plugins" for row in _record_rows(name)]
    plugins = registry.plugin_rows() if "plugins" in wanted else []
    if output.json:
        output.rows(records + plugins, ())
        return
    if kind != "plugins":
        output.rows(records, ("kind", "name", "summary", "package", "version", "status", "reason"))
    if plugins:
        output.rows(plugins, ("kind", "name", "package", "version", "status", "reason", "remedy"))


def _record_rows(kind: str) -> list[dict[str, Any]]:
    catalogue = getattr(registry, kind)
    rows = []
    for name, record in catalogue.items():
        reason = f"pip install {' '.join(record.missing)}" if record.missing else ""
        status = "unavailable" if reason else "ok"
        fields = dataclasses.asdict(record) | {"kind": record.kind, "name": name}
        rows.append(fields | {"status": status, "reason": reason})
    return rows
