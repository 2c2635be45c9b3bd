"""The registered explicit methods, one factory each."""

from __future__ import annotations

from ode_solvers.explicit import RungeKutta
from ode_solvers.kernels.contract import Kernel
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8
from ode_solvers.tables.low_order import (
    ADAPTIVE_HEUN,
    BOSH3,
    EULER,
    FEHLBERG2,
    HEUN,
    HEUN3,
    MIDPOINT,
    RALSTON,
    RK4,
    RK4_38,
)
from ode_solvers.tables.tsit5 import TSIT5


def euler(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Euler's method, order 1, one evaluation a step."""
    return RungeKutta(EULER, kernel)


def midpoint(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return the explicit midpoint rule, order 2, two evaluations a step."""
    return RungeKutta(MIDPOINT, kernel)


def heun(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return the explicit trapezoidal rule, order 2, two evaluations a step."""
    return RungeKutta(HEUN, kernel)


def ralston(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Ralston's method, order 2 with the smallest error bound, two evaluations a step."""
    return RungeKutta(RALSTON, kernel)


def heun3(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Heun's method of order 3, three evaluations a step."""
    return RungeKutta(HEUN3, kernel)


def rk4(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return the classical method, order 4, four evaluations a step."""
    return RungeKutta(RK4, kernel)


def rk4_38(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return the 3/8 rule, order 4, four evaluations a step."""
    return RungeKutta(RK4_38, kernel)


def adaptive_heun(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Heun's method with Euler's embedded, order 2, two evaluations a step."""
    return RungeKutta(ADAPTIVE_HEUN, kernel)


def fehlberg2(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Fehlberg's 2(1) pair, three evaluations a step and one at its end."""
    return RungeKutta(FEHLBERG2, kernel)


def bosh3(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Bogacki and Shampine's 3(2) pair, three evaluations a step."""
    return RungeKutta(BOSH3, kernel)


def dopri5(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Dormand and Prince's 5(4) pair, six evaluations a step."""
    return RungeKutta(DOPRI5, kernel)


def tsit5(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Tsitouras's 5(4) pair, six evaluations a step."""
    return RungeKutta(TSIT5, kernel)


def dopri8(kernel: Kernel | str | None = None) -> RungeKutta:
    """Return Dormand and Prince's method of order 8, twelve evaluations a step."""
    return RungeKutta(DOPRI8, kernel)
