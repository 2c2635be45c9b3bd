"""Tsitouras's pair of orders 5 and 4.

The paper prints the weights' difference with one sign wrong; these sum to zero and make a companion
of order four, which the table checks.
"""

from __future__ import annotations

import numpy as np

from ode_solvers.tableau import Dense, Tableau


def _times_square(scale: float, *factors: tuple[float, ...]) -> tuple[float, ...]:
    """Return scale theta^2 times a product of polynomials (constant term first), from theta on."""
    product = np.array([scale])
    for factor in factors:
        product = np.polynomial.polynomial.polymul(product, np.array(factor))
    return (0.0, *product.tolist())


# Tsitouras 2011, section 3: b_i(theta), each a factored quartic.
_FIRST = np.polynomial.polynomial.polymul(
    -1.0530884977290216 * np.array([-1.3299890189751412, 1.0]),
    [0.7139816917074209, -1.4364028541716351, 1.0],
)
_DENSE = (
    tuple(_FIRST.tolist()),
    _times_square(0.1017, (1.2949852507374631, -2.1966568338249754, 1.0)),
    _times_square(2.490627285651252793, (1.57803468208092486, -2.38535645472061657, 1.0)),
    _times_square(-16.54810288924490272, (-1.21712927295533244, 1.0), (-0.61620406037800089, 1.0)),
    _times_square(47.37952196281928122, (-1.203071208372362603, 1.0), (-0.658047292653547382, 1.0)),
    _times_square(-34.87065786149660974, (-1.2, 1.0), (-0.666666666666666667, 1.0)),
    _times_square(2.5, (-1.0, 1.0), (-0.6, 1.0)),
)

_B = [
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
]

TSIT5 = Tableau(
    a=[
        [],
        [0.161],
        [-0.008480655492356989, 0.335480655492357],
        [2.8971530571054935, -6.359448489975075, 4.3622954328695815],
        [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
        [
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ],
        _B[:6],
    ],
    b=_B,
    c=[0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0],
    order=5,
    name="tsit5",
    b_error=[
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ],
    dense=Dense(_DENSE, order=4),
    source="Tsitouras, Comput. Math. Appl. 62 (2011), table 1",
    error_estimate="Tsitouras's embedded fourth-order estimate",
)
