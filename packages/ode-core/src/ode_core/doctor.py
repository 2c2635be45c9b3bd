"""Facts about this machine and environment that a bug report needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch
import typer

from ode_core import registry
from ode_core.console import Output

_PACKAGES = (
    "ode-core",
    "ode-solvers",
    "ode-models",
    "ode-tasks",
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "pluggy",
    "lightning-fabric",
    "torchmetrics",
)


def doctor(ctx: typer.Context) -> None:
    """Show versions, devices and plugins in one screen, to paste into a report."""
    output: Output = ctx.obj
    plugins = registry.plugin_rows()
    if output.json:
        output.rows(facts() + plugins, ())
        return
    output.rows(facts(), ("what", "value"))
    output.rows(plugins, ("name", "package", "version", "status", "reason"))


def facts() -> list[dict[str, Any]]:
    """Return rows of `what` and `value`: Python, system, package versions, devices and threads."""
    rows = [("python", platform.python_version()), ("system", platform.platform())]
    rows += [(package, _version(package)) for package in _PACKAGES]
    rows += _devices()
    return [{"what": what, "value": value} for what, value in rows]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    rows = [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 2**30
            rows.append((f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB"))
    else:
        rows.append(("cuda", "none"))
    return rows
