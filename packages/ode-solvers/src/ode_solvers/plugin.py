"""What ode-solvers registers: records only, torch is imported when a method is first used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ode_core.hooks import hookimpl
from ode_core.records import DiagnosticRecord, GradientRecord, SolverRecord
from ode_solvers.sources import GRADIENTS, SOLVERS

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
_MECHANICS = (
    ("leapfrog", "leapfrog:Leapfrog", "the two-step midpoint rule, for any f"),
    (
        "velocity_verlet",
        "leapfrog:VelocityVerlet",
        "velocity Verlet, symplectic, for pairs (q, v)",
    ),
    ("alf", "reversible:AsynchronousLeapfrog", "the asynchronous leapfrog of MALI, reversible"),
    ("reversible_heun", "reversible:ReversibleHeun", "the reversible Heun method"),
)
_ADAMS = (
    ("adams_bashforth", "Adams-Bashforth of variable order, one evaluation a step"),
    ("adams_moulton", "Adams-Bashforth-Moulton of variable order, two evaluations a step"),
)
_EXTERNAL = (
    ("scipy_radau", 5, "SciPy's Radau IIA method, on the CPU and without gradients"),
    ("scipy_bdf", 5, "SciPy's backward differentiation formulae, likewise"),
    ("scipy_lsoda", 12, "SciPy's LSODA, which switches between Adams and BDF, likewise"),
)


@hookimpl
def ode_solvers() -> Iterator[SolverRecord]:
    """Yield the solvers of this package."""
    for record in _solvers():
        yield replace(record, source=SOLVERS.get(record.name))


def _solvers() -> Iterator[SolverRecord]:
    yield from _runge_kutta()
    for name, target, summary in _MECHANICS:
        yield SolverRecord(
            name,
            f"ode_solvers.{target}",
            summary,
            order=2,
            adaptive=False,
            per_sample=True,
            takes_pairs=name == "velocity_verlet",
        )
    yield SolverRecord(
        "reversible_dopri5",
        "ode_solvers.coupled:reversible_dopri5",
        "two solutions by dopri5, coupled so that steps can be taken back",
        order=5,
        adaptive=True,
        per_sample=True,
    )
    yield SolverRecord(
        "auto",
        "ode_solvers.auto:auto",
        "dopri5 where that does, kvaerno5 where stability limits its steps",
        order=5,
        adaptive=True,
    )
    for name, summary in _ADAMS:
        target = f"ode_solvers.multistep.adams:{name}"
        yield SolverRecord(name, target, summary, order=5, adaptive=True, per_sample=True)
    for name, order, summary in _EXTERNAL:
        yield SolverRecord(
            name,
            f"ode_solvers.external:{name}",
            summary,
            order,
            adaptive=True,
            implicit=True,
            differentiable=False,
            fixed_steps=False,
            requires=(("scipy", "scipy>=1.11"),),
        )


def _runge_kutta() -> Iterator[SolverRecord]:
    for table, module, implicit in (
        (_EXPLICIT, "methods", False),
        (_IMPLICIT, "implicit.methods", True),
    ):
        for name, order, adaptive, summary in table:
            yield SolverRecord(
                name,
                f"ode_solvers.{module}:{name}",
                summary,
                order,
                adaptive,
                implicit=implicit,
                per_sample=True,
            )


@hookimpl
def ode_gradients() -> Iterator[GradientRecord]:
    """Yield the gradient methods beside core's own."""
    for record in _gradients():
        yield replace(record, source=GRADIENTS.get(record.name))


def _gradients() -> Iterator[GradientRecord]:
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
    yield GradientRecord(
        "symplectic",
        "ode_solvers.gradients.symplectic:Symplectic",
        "accepted states kept, each step replayed with one evaluation's graph at a time",
        exact=True,
    )
    yield GradientRecord(
        "forward",
        "ode_solvers.gradients.forward:Forward",
        "derivatives carried along with the state, for some tens of parameters",
        exact=True,
    )
    yield GradientRecord(
        "interpolated",
        "ode_solvers.gradients.interpolated:Interpolated",
        "continuous adjoint along the forward solve's dense output",
        exact=False,
    )
    yield GradientRecord(
        "reversible",
        "ode_solvers.gradients.reversible:ReversibleGradient",
        "steps taken back one by one, for solvers that can",
        exact=True,
    )


@hookimpl
def ode_diagnostics() -> Iterator[DiagnosticRecord]:
    """Yield which kernels there are here, and why not others."""
    yield DiagnosticRecord("kernels", "ode_solvers.diagnostics:kernels", "which kernels are used")
