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
    ("rk4", 4, False, "the classical Runge-Kutta method"),
    ("rk4_38", 4, False, "Kutta's 3/8 rule"),
    ("adaptive_heun", 2, True, "Heun's method with Euler's embedded"),
    ("bosh3", 3, True, "Bogacki and Shampine's 3(2) pair"),
    ("dopri5", 5, True, "Dormand and Prince's 5(4) pair"),
    ("tsit5", 5, True, "Tsitouras's 5(4) pair"),
    ("dopri8", 8, True, "Dormand and Prince's method of order 8 (DOP853)"),
)

_IMPLICIT = (
    ("implicit_euler", 1, False, "the backward Euler method, L-stable"),
    ("implicit_midpoint", 2, False, "the implicit midpoint rule"),
    ("trapezoid", 2, False, "the trapezoidal rule, A-stable"),
    ("sdirk2", 2, False, "Alexander's L-stable method of two stages"),
    ("trbdf2", 2, True, "TR-BDF2 with a third-order error estimate, L-stable"),
    ("kvaerno5", 5, True, "Kvaerno's diagonally implicit 5(4) pair, L-stable"),
    ("radau5", 5, True, "Radau IIA with three stages (RADAU5), L-stable"),
    ("radau_iia3", 3, False, "Radau IIA with two stages, L-stable"),
    ("gl4", 4, False, "Gauss's method with two stages"),
    ("gl6", 6, False, "Gauss's method with three stages"),
)


@hookimpl
def ode_solvers() -> Iterator[SolverRecord]:
    """Yield the explicit and the implicit methods."""
    for name, order, adaptive, summary in _EXPLICIT:
        yield SolverRecord(name, f"ode_solvers.methods:{name}", summary, order, adaptive)
    for name, order, adaptive, summary in _IMPLICIT:
        target = f"ode_solvers.implicit.methods:{name}"
        yield SolverRecord(name, target, summary, order, adaptive, implicit=True)


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
