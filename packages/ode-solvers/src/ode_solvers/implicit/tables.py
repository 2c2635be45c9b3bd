"""The implicit methods' coefficients."""

from __future__ import annotations

from fractions import Fraction as Q
from math import sqrt

import numpy as np
from numpy.polynomial import Polynomial

from ode_solvers.implicit.table import ImplicitTableau
from ode_solvers.tableau import Dense


def _collocation(nodes: list[float]) -> tuple[list[list[float]], list[float], list[list[float]]]:
    """Return the rows, the weights and the continuous output of collocation at the nodes.

    The integrals of the Lagrange polynomials: Hairer, Nørsett, Wanner I, theorem II.7.7.
    """
    integrals = []
    for node in nodes:
        others = [x for x in nodes if x != node]
        basis = Polynomial.fromroots(others) / np.prod([node - x for x in others])
        integrals.append(basis.integ())
    rows = [[float(integral(node)) for integral in integrals] for node in nodes]
    weights = [float(integral(1.0)) for integral in integrals]
    return rows, weights, [[float(x) for x in integral.coef[1:]] for integral in integrals]


def _gauss(name: str, nodes: list[float], source: str) -> ImplicitTableau:
    rows, weights, _ = _collocation(nodes)
    return ImplicitTableau(rows, weights, nodes, 2 * len(nodes), name, source=source)


IMPLICIT_EULER = ImplicitTableau(
    a=[[1]], b=[1], c=[1], order=1, name="implicit_euler", source="Hairer and Wanner II, IV.3"
)

IMPLICIT_MIDPOINT = ImplicitTableau(
    a=[[Q(1, 2)]],
    b=[1],
    c=[Q(1, 2)],
    order=2,
    name="implicit_midpoint",
    source="Gauss with one stage; Hairer, Nørsett, Wanner I, table II.7.3",
)

TRAPEZOID = ImplicitTableau(
    a=[[0], [Q(1, 2), Q(1, 2)]],
    b=[Q(1, 2), Q(1, 2)],
    c=[0, 1],
    order=2,
    name="trapezoid",
    source="Lobatto IIIA with two stages; Hairer and Wanner II, table IV.5.7",
)

_G = 1.0 - 1.0 / sqrt(2.0)
SDIRK2 = ImplicitTableau(
    a=[[_G], [1.0 - _G, _G]],
    b=[1.0 - _G, _G],
    c=[_G, 1.0],
    order=2,
    name="sdirk2",
    source="Alexander, SIAM J. Numer. Anal. 14 (1977), the L-stable one of two stages",
)

# The trapezoidal rule to 2 - sqrt(2), then the second backward difference formula.
_D, _W = 1.0 - 1.0 / sqrt(2.0), sqrt(2.0) / 4.0
TRBDF2 = ImplicitTableau(
    a=[[0], [_D, _D], [_W, _W, _D]],
    b=[_W, _W, _D],
    c=[0, 2.0 * _D, 1.0],
    order=2,
    name="trbdf2",
    b_error=[_W - (1.0 - _W) / 3.0, _W - (3.0 * _W + 1.0) / 3.0, _D - _D / 3.0],
    error_order=3,
    filtered=True,
    source="Hosea and Shampine, Appl. Numer. Math. 20 (1996), table 1",
    error_estimate="difference to the embedded third-order method, filtered by (I - d h J)^-1",
)

GL4 = _gauss(
    "gl4", [0.5 - sqrt(3.0) / 6.0, 0.5 + sqrt(3.0) / 6.0], "Hairer, Nørsett, Wanner I, table II.7.3"
)
GL6 = _gauss(
    "gl6",
    [0.5 - sqrt(15.0) / 10.0, 0.5, 0.5 + sqrt(15.0) / 10.0],
    "Hairer, Nørsett, Wanner I, table II.7.4",
)

RADAU_IIA3 = ImplicitTableau(
    a=[[Q(5, 12), Q(-1, 12)], [Q(3, 4), Q(1, 4)]],
    b=[Q(3, 4), Q(1, 4)],
    c=[Q(1, 3), 1],
    order=3,
    name="radau_iia3",
    source="Hairer and Wanner II, table IV.5.5",
)


def _radau5() -> ImplicitTableau:
    """Return Radau IIA with three stages, the slope at the start before them for the estimate.

    Its companion of order 3 has the weight 1/g on the slope at the start, where g is the real
    eigenvalue of the inverse matrix (Hairer and Wanner II, eq. IV.8.17 and 8.18).
    """
    nodes = [(4.0 - sqrt(6.0)) / 10.0, (4.0 + sqrt(6.0)) / 10.0, 1.0]
    rows, weights, output = _collocation(nodes)
    rows[-1] = weights
    values = np.linalg.eigvals(np.linalg.inv(np.array(rows)))
    start = 1.0 / float(values[np.abs(values.imag).argmin()].real)
    # The three other weights of a quadrature of order 3 with `start` at 0.
    powers = np.vander(nodes, 3, increasing=True).T
    companion = np.linalg.solve(powers, [1.0 - start, 1.0 / 2.0, 1.0 / 3.0])
    return ImplicitTableau(
        a=[[0], *([0, *row] for row in rows)],
        b=[0, *weights],
        c=[0, *nodes],
        order=5,
        name="radau5",
        b_error=[-start, *(np.array(weights) - companion)],
        error_order=3,
        filtered=True,
        dense=Dense(((0.0,) * 3, *map(tuple, output)), order=3),
        source="Hairer and Wanner II, section IV.8 and table IV.5.6",
        error_estimate="difference to the embedded third-order formula of RADAU5, filtered",
    )


RADAU5 = _radau5()


def _kvaerno5() -> ImplicitTableau:
    """Return Kvaerno's 5(4) pair; its sixth stage is the companion's solution.

    The third stage lies at t + 1.23 h: f is evaluated beyond the step's end.
    """
    g = 0.26
    rows = [
        [0.0],
        [g, g],
        [0.13, 0.84033320996790809, g],
        [0.22371961478320505, 0.47675532319799699, -0.06470895363112615, g],
        [0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, g],
        [0.13855640231268224, 0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, g],
        [
            0.13659751177640291,
            0,
            -0.05496908796538376,
            -0.04118626728321046,
            0.62993304899016403,
            0.06962479448202728,
            g,
        ],
    ]
    nodes = [sum(row) for row in rows[:5]] + [1.0, 1.0]
    last = rows[-1]
    return ImplicitTableau(
        a=rows,
        b=last,
        c=nodes,
        order=5,
        name="kvaerno5",
        b_error=[x - y for x, y in zip(last, [*rows[5], 0.0], strict=True)],
        dense=Dense(_smooth_quartic(rows, nodes), order=4),
        source="Kvaerno, BIT 44 (2004), the ESDIRK 5/4 method with gamma = 0.26",
        error_estimate="difference of Kvaerno's last two stages, of orders 5 and 4",
    )


def _smooth_quartic(rows: list[list[float]], nodes: list[float]) -> tuple[tuple[float, ...], ...]:
    """Return the smallest weights of a quartic of order 4 with the step's slopes at both ends.

    All stages have order 2 at least, so that the conditions up to order 4 are those of quadrature
    and one more, sum b_i a_ij c_j^2 = theta^4 / 12.
    """
    size = len(nodes)
    c, a = np.array(nodes), np.zeros((size, size))
    for index, row in enumerate(rows):
        a[index, : len(row)] = row
    orders = np.stack([c**0, c, c**2, c**3, a @ c**2])
    first, last = np.eye(size)[0], np.eye(size)[-1]
    # Unknowns are the coefficients of theta^2, theta^3 and theta^4; that of theta is `first`.
    wanted = np.zeros((3, 5))
    wanted[0, 1], wanted[1, 2], wanted[2, 3], wanted[2, 4] = 1 / 2, 1 / 3, 1 / 4, 1 / 12
    conditions = [np.kron(np.eye(3), orders)]
    conditions += [np.kron([weights], np.eye(size)) for weights in ([1, 1, 1], [2, 3, 4])]
    right = np.concatenate([wanted.ravel(), a[-1] - first, last - first])
    found = np.linalg.lstsq(np.concatenate(conditions), right, rcond=1e-10)[0].reshape(3, size)
    return tuple(tuple(float(x) for x in row) for row in np.column_stack([first, *found]))


KVAERNO5 = _kvaerno5()
