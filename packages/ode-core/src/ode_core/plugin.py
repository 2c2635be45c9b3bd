"""What ode-core itself registers, through the same door as everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.citation import Reference
from ode_core.hooks import hookimpl
from ode_core.records import CommandRecord, DiagnosticRecord, GradientRecord

if TYPE_CHECKING:
    from collections.abc import Iterator


@hookimpl
def ode_gradients() -> Iterator[GradientRecord]:
    """Yield back-propagation through the loop."""
    yield GradientRecord(
        "direct",
        "ode_core.direct:Direct",
        "back-propagation through the solver",
        exact=True,
        source=Reference(
            "Kidger, Patrick",
            2022,
            "On neural differential equations",
            "PhD thesis, University of Oxford, section 5.1",
            arxiv="2202.02435",
        ),
    )


@hookimpl
def ode_commands() -> Iterator[CommandRecord]:
    """Yield the commands that need more than the registry."""
    yield CommandRecord(
        "list", "ode_core.listing:list_command", "List what is installed, and what failed and why."
    )
    yield CommandRecord(
        "check", "ode_core.testing.command:check", "Hold a solver to what the suite demands of one."
    )
    yield CommandRecord(
        "cost", "ode_core.testing.cost:cost", "Count what a solver's steps do besides calling f."
    )
    yield CommandRecord(
        "cite", "ode_core.cite:cite", "Show what to cite for a solver, gradient, model or task."
    )
    for kind in ("solver", "gradient", "task"):
        yield CommandRecord(
            f"new-{kind}",
            f"ode_core.scaffold:new_{kind}",
            f"Make a distribution with a {kind} to start from.",
            requires=(("copier", "ode-core[new]"),),
        )
    yield CommandRecord(
        "doctor", "ode_core.doctor:doctor", "Show versions, devices, folders and plugins."
    )


@hookimpl
def ode_diagnostics() -> Iterator[DiagnosticRecord]:
    """Yield what torch finds."""
    yield DiagnosticRecord("devices", "ode_core.devices:devices", "what torch can use")
