"""The registered implicit methods, one factory each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

from ode_solvers.implicit.stepper import ImplicitRungeKutta
from ode_solvers.implicit.tables import (
    GL4,
    GL6,
    IMPLICIT_EULER,
    IMPLICIT_MIDPOINT,
    KVAERNO5,
    RADAU5,
    RADAU_IIA3,
    SDIRK2,
    TRAPEZOID,
    TRBDF2,
)

if TYPE_CHECKING:
    from ode_solvers.implicit.jacobian import UserJacobian
    from ode_solvers.implicit.linear import LinearSolver


class Options(TypedDict, total=False):
    """The options of every implicit method; ImplicitRungeKutta says what they mean."""

    batched: bool
    jacobian: UserJacobian | None
    linear: LinearSolver | str | None
    newton_tol: float | None


def implicit_euler(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return the backward Euler method, order 1, L-stable."""
    return ImplicitRungeKutta(IMPLICIT_EULER, **options)


def implicit_midpoint(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return the implicit midpoint rule, order 2, A-stable and symplectic."""
    return ImplicitRungeKutta(IMPLICIT_MIDPOINT, **options)


def trapezoid(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return the trapezoidal rule, order 2, A-stable."""
    return ImplicitRungeKutta(TRAPEZOID, **options)


def sdirk2(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return Alexander's method of two stages, order 2, L-stable."""
    return ImplicitRungeKutta(SDIRK2, **options)


def trbdf2(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return TR-BDF2, order 2, L-stable, with Hosea and Shampine's error estimate."""
    return ImplicitRungeKutta(TRBDF2, **options)


def kvaerno5(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return Kvaerno's 5(4) pair, diagonally implicit, L-stable."""
    return ImplicitRungeKutta(KVAERNO5, **options)


def radau5(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return Radau IIA with three stages, order 5, L-stable, with the estimate of RADAU5."""
    return ImplicitRungeKutta(RADAU5, **options)


def radau_iia3(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return Radau IIA with two stages, order 3, L-stable."""
    return ImplicitRungeKutta(RADAU_IIA3, **options)


def gl4(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return Gauss's method with two stages, order 4, A-stable and symplectic."""
    return ImplicitRungeKutta(GL4, **options)


def gl6(**options: Unpack[Options]) -> ImplicitRungeKutta:
    """Return Gauss's method with three stages, order 6, A-stable and symplectic."""
    return ImplicitRungeKutta(GL6, **options)
