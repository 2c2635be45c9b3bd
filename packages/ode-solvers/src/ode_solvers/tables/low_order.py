"""Methods of order one to four, fixed-step and embedded."""

from __future__ import annotations

from fractions import Fraction as Q

from ode_solvers.tableau import Tableau

EULER = Tableau(a=[[]], b=[1], c=[0], order=1, name="euler", source="Euler 1768")

MIDPOINT = Tableau(
    a=[[], [Q(1, 2)]],
    b=[0, 1],
    c=[0, Q(1, 2)],
    order=2,
    name="midpoint",
    source="Runge 1895; Hairer, Nørsett, Wanner I, section II.1",
)

HEUN = Tableau(
    a=[[], [1]],
    b=[Q(1, 2), Q(1, 2)],
    c=[0, 1],
    order=2,
    name="heun",
    source="the explicit trapezoidal rule; Heun 1900",
)

# Ralston chose the node 2/3 for the smallest bound on the error; some texts print the weights of
# another method under his name.
RALSTON = Tableau(
    a=[[], [Q(2, 3)]],
    b=[Q(1, 4), Q(3, 4)],
    c=[0, Q(2, 3)],
    order=2,
    name="ralston",
    source="Ralston, Math. Comp. 16 (1962)",
)

HEUN3 = Tableau(
    a=[[], [Q(1, 3)], [0, Q(2, 3)]],
    b=[Q(1, 4), 0, Q(3, 4)],
    c=[0, Q(1, 3), Q(2, 3)],
    order=3,
    name="heun3",
    source="Heun 1900; Hairer, Nørsett, Wanner I, section II.1",
)

RK4 = Tableau(
    a=[[], [Q(1, 2)], [0, Q(1, 2)], [0, 0, 1]],
    b=[Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 6)],
    c=[0, Q(1, 2), Q(1, 2), 1],
    order=4,
    name="rk4",
    source="Kutta 1901, the classical method",
)

# torchdiffeq calls this one rk4.
RK4_38 = Tableau(
    a=[[], [Q(1, 3)], [Q(-1, 3), 1], [1, -1, 1]],
    b=[Q(1, 8), Q(3, 8), Q(3, 8), Q(1, 8)],
    c=[0, Q(1, 3), Q(2, 3), 1],
    order=4,
    name="rk4_38",
    source="Kutta 1901, the 3/8 rule",
)

ADAPTIVE_HEUN = Tableau(
    a=[[], [1]],
    b=[Q(1, 2), Q(1, 2)],
    c=[0, 1],
    order=2,
    name="adaptive_heun",
    b_error=[Q(-1, 2), Q(1, 2)],
    source="Heun 1900 with Euler's method embedded",
    error_estimate="difference of Heun's and Euler's methods",
)

FEHLBERG2 = Tableau(
    a=[[], [Q(1, 2)], [Q(1, 256), Q(255, 256)]],
    b=[Q(1, 512), Q(255, 256), Q(1, 512)],
    c=[0, Q(1, 2), 1],
    order=2,
    name="fehlberg2",
    b_error=[Q(-1, 512), 0, Q(1, 512)],
    source="Fehlberg, NASA TR R-315 (1969), formula RK1(2), advanced with the second order",
    error_estimate="Fehlberg's embedded first-order estimate",
)

BOSH3 = Tableau(
    a=[[], [Q(1, 2)], [0, Q(3, 4)], [Q(2, 9), Q(1, 3), Q(4, 9)]],
    b=[Q(2, 9), Q(1, 3), Q(4, 9), 0],
    c=[0, Q(1, 2), Q(3, 4), 1],
    order=3,
    name="bosh3",
    b_error=[
        Q(2, 9) - Q(7, 24),
        Q(1, 3) - Q(1, 4),
        Q(4, 9) - Q(1, 3),
        Q(-1, 8),
    ],
    source="Bogacki and Shampine, Appl. Math. Lett. 2 (1989)",
    error_estimate="Bogacki and Shampine's embedded second-order estimate",
)
