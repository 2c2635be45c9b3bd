"""What ode-solvers registers: records only, torch is imported when a method is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.hooks import hookimpl
from ode_core.records import GradientRecord, SolverRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPLICIT = (
    ("euler", 1, False, "Euler's method"),
    ("midpoint", 2, False, "the explicit midpoint rule"),
    ("heun", 2, False, "the explicit trapezoidal rule"),
    ("ralston", 2, False, "Ralston's method, smallest error bound of order 2"),
    ("heun3", 3, False, "Heun's method of order 3"),
    ("rk4", 4, False, "the classical Runge-Kutta method"),
    ("rk4_38", 4, False, "Kutta's 3/8 rule"),
    ("adaptive_heun", 2, True, "Heun's method with Euler's embedded"),
    ("fehlberg2", 2, True, "Fehlberg's 2(1) pair"),
    ("bosh3", 3, True, "Bogacki and Shampine's 3(2) pair"),
    ("dopri5", 5, True, "Dormand and Prince's 5(4) pair"),
    ("tsit5", 5, True, "Tsitouras's 5(4) pair"),
    ("dopri8", 8, True, "Dormand and Prince's method of order 8 (DOP853)"),
)


@hookimpl
def ode_solvers() -> Iterator[SolverRecord]:
    """Yield the explicit methods."""
    for name, order, adaptive, summary in _EXPLICIT:
        yield SolverRecord(name, f"ode_solvers.methods:{name}", summary, order, adaptive)


@hookimpl
def ode_gradients() -> Iterator[GradientRecord]:
    """Yield the gradient methods beside core's own."""
    yield GradientRecord(
        "adjoint",
        "ode_solvers.gradients.adjoint:Adjoint",
        "continuous adjoint, solved backwards with the parameters' gradient",
        exact=False,
    )
    yield GradientRecord(
        "checkpoint",
        "ode_solvers.gradients.checkpoint:Checkpoint",
        "accepted states kept, each step replayed in the backward pass",
        exact=True,
    )
