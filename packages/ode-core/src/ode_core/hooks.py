"""The extension points: a plugin module implements any of these, marked with `hookimpl`.

A plugin is a distribution with an entry point in the group `ode`:

    [project.entry-points.ode]
    my-plugin = "my_package.plugin"

and that module, which must not import torch, yields records:

    from ode_core import SolverRecord, hookimpl

    @hookimpl
    def ode_solvers():
        yield SolverRecord("mine", "my_package.mine:make", "one line", order=3, adaptive=False)

A plugin that needs hooks or fields of a later API than 1.0 says so with `ODE_PLUGIN_API = (1, 2)`
in that module; where the host's is too old it is named and left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ode_core.records import (
        CommandRecord,
        DiagnosticRecord,
        ExecutorRecord,
        GradientRecord,
        ModelRecord,
        SolverRecord,
        TaskRecord,
    )

PROJECT = "ode"

PLUGIN_API = (1, 0)
"""The number of the plugin API: the second part grows with every addition, the first when something
that plugins rely on is taken away."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ode_solvers() -> Iterable[SolverRecord]:
    """Yield the solvers of this package."""


@hookspec
def ode_gradients() -> Iterable[GradientRecord]:
    """Yield the gradient methods of this package."""


@hookspec
def ode_models() -> Iterable[ModelRecord]:
    """Yield the models of this package."""


@hookspec
def ode_tasks() -> Iterable[TaskRecord]:
    """Yield the tasks of this package."""


@hookspec
def ode_executors() -> Iterable[ExecutorRecord]:
    """Yield the ways to run a benchmark's cells."""


@hookspec
def ode_commands() -> Iterable[CommandRecord]:
    """Yield subcommands of `ode`."""


@hookspec
def ode_diagnostics() -> Iterable[DiagnosticRecord]:
    """Yield what this package has to say to `ode doctor` about where it runs."""
