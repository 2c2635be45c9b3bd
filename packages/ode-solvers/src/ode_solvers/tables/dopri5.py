"""Dormand and Prince's pair of orders 5 and 4.

Two error estimates go by this name. This is the published one (Hairer's code, SciPy and Julia have
it too); Shampine's variant in torchdiffeq and diffrax is exactly 2/3 of it, so at equal tolerance
those take steps 8 % longer and make about 1.5 times the error.
"""

from __future__ import annotations

from fractions import Fraction as Q

from ode_solvers.tableau import Dense, Tableau

_B: list[Q | int] = [Q(35, 384), 0, Q(500, 1113), Q(125, 192), Q(-2187, 6784), Q(11, 84), 0]
_B_EMBEDDED: list[Q | int] = [
    Q(5179, 57600),
    0,
    Q(7571, 16695),
    Q(393, 640),
    Q(-92097, 339200),
    Q(187, 2100),
    Q(1, 40),
]

# Shampine, Some practical Runge-Kutta formulas, Math. Comp. 46 (1986): the free quartic.
_DENSE: list[list[Q | int]] = [
    [1, Q(-8048581381, 2820520608), Q(8663915743, 2820520608), Q(-12715105075, 11282082432)],
    [0, 0, 0, 0],
    [0, Q(131558114200, 32700410799), Q(-68118460800, 10900136933), Q(87487479700, 32700410799)],
    [0, Q(-1754552775, 470086768), Q(14199869525, 1410260304), Q(-10690763975, 1880347072)],
    [0, Q(127303824393, 49829197408), Q(-318862633887, 49829197408), Q(701980252875, 199316789632)],
    [0, Q(-282668133, 205662961), Q(2019193451, 616988883), Q(-1453857185, 822651844)],
    [0, Q(40617522, 29380423), Q(-110615467, 29380423), Q(69997945, 29380423)],
]

DOPRI5 = Tableau(
    a=[
        [],
        [Q(1, 5)],
        [Q(3, 40), Q(9, 40)],
        [Q(44, 45), Q(-56, 15), Q(32, 9)],
        [Q(19372, 6561), Q(-25360, 2187), Q(64448, 6561), Q(-212, 729)],
        [Q(9017, 3168), Q(-355, 33), Q(46732, 5247), Q(49, 176), Q(-5103, 18656)],
        _B[:6],
    ],
    b=_B,
    c=[0, Q(1, 5), Q(3, 10), Q(4, 5), Q(8, 9), 1, 1],
    order=5,
    name="dopri5",
    b_error=[b - embedded for b, embedded in zip(_B, _B_EMBEDDED, strict=True)],
    dense=Dense(tuple(tuple(float(x) for x in row) for row in _DENSE), order=4),
    source="Dormand and Prince, J. Comput. Appl. Math. 6 (1980), table 2",
    error_estimate="Dormand and Prince's published embedded fourth-order estimate",
)
