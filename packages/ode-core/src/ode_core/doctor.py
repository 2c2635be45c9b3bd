"""`ode doctor`: what a report of a bug needs to know of this machine and environment.

Nothing here imports torch or a plugin: each does that in a process of its own, so that the doctor
works where they do not.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from ode_core import discovery
from ode_core.console import Output
from ode_core.discovery import ENV_ALLOW, ENV_BLOCK, ENV_FILES
from ode_core.folders import writable
from ode_core.hooks import PLUGIN_API
from ode_core.loading import FAILED
from ode_core.probe import probe

_PACKAGES = (*discovery.SUITE, "torch", "torchvision", "triton", "numpy", "scipy", "pluggy")
_VARIABLES = (
    ENV_ALLOW, ENV_BLOCK, ENV_FILES, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH",
    "PYTHONWARNINGS", "TRITON_INTERPRET",
)  # fmt: skip


def doctor(
    ctx: typer.Context,
    *,
    seconds: Annotated[float, typer.Option(help="How long a plugin may take to load.")] = 10.0,
) -> None:
    """Show versions, devices, folders and plugins in one screen, to paste into a report."""
    output: Output = ctx.obj
    plugins, diagnostics = probe(discovery.find(), seconds)
    found = facts() + diagnostics
    if output.json:
        output.rows(found + plugins, ())
        return
    output.rows(found, ("what", "value"))
    output.rows(plugins, ("name", "package", "version", "status", "seconds", "reason", "remedy"))
    # A plugin that was caught is harmless; one that took its process with it has no load time.
    harmful = [p["package"] for p in plugins if p["status"] == FAILED and p["seconds"] is None]
    if harmful:
        output.note(
            f"set {ENV_BLOCK}={','.join(harmful)}: no program that uses the suite survives loading "
            "what is named there"
        )


def facts() -> list[dict[str, Any]]:
    """Return rows of `what` and `value`: Python, system, versions, variables and folders."""
    rows = [
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("system", platform.platform()),
        ("plugin API", ".".join(map(str, PLUGIN_API))),
    ]
    rows += [(package, _version(package)) for package in _PACKAGES]
    rows += [(name, os.environ[name]) for name in _VARIABLES if name in os.environ]
    rows += [
        ("working folder", writable(Path.cwd())),
        ("temporary folder", writable(Path(tempfile.gettempdir()))),
    ]
    return [{"what": what, "value": value} for what, value in rows]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
