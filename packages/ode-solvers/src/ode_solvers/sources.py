"""The publication to cite for each solver and gradient method of this package.

Identifiers stand only where they are certain; older works have none.
"""

from __future__ import annotations

from ode_core.citation import Reference

_NONSTIFF = Reference(
    "Hairer, Ernst and Nørsett, Syvert P. and Wanner, Gerhard",
    1993,
    "Solving Ordinary Differential Equations I: Nonstiff Problems",
    "Springer, 2nd edition",
    doi="10.1007/978-3-540-78862-1",
)
_STIFF = Reference(
    "Hairer, Ernst and Wanner, Gerhard",
    1996,
    "Solving Ordinary Differential Equations II: Stiff and Differential-Algebraic Problems",
    "Springer, 2nd edition",
    doi="10.1007/978-3-642-05221-7",
)
_RUNGE = Reference(
    "Runge, Carl",
    1895,
    "Über die numerische Auflösung von Differentialgleichungen",
    "Mathematische Annalen 46, 167-178",
    doi="10.1007/BF01446807",
)
_HEUN = Reference(
    "Heun, Karl",
    1900,
    "Neue Methoden zur approximativen Integration der Differentialgleichungen einer unabhängigen "
    "Veränderlichen",
    "Zeitschrift für Mathematik und Physik 45, 23-38",
)
_KUTTA = Reference(
    "Kutta, Wilhelm",
    1901,
    "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",
    "Zeitschrift für Mathematik und Physik 46, 435-453",
)
_BUTCHER = Reference(
    "Butcher, John C.",
    1964,
    "Implicit Runge-Kutta processes",
    "Mathematics of Computation 18, 50-64",
    doi="10.1090/S0025-5718-1964-0159424-9",
)
_SWITCHING = Reference(
    "Petzold, Linda",
    1983,
    "Automatic selection of methods for solving stiff and nonstiff systems of ordinary "
    "differential equations",
    "SIAM Journal on Scientific and Statistical Computing 4, 136-148",
    doi="10.1137/0904010",
)
_MALI = Reference(
    "Zhuang, Juntang and Dvornek, Nicha C. and Tatikonda, Sekhar and Duncan, James S.",
    2021,
    "MALI: A memory efficient and reverse accurate integrator for Neural ODEs",
    "International Conference on Learning Representations",
    arxiv="2102.04668",
)

SOLVERS = {
    "euler": Reference("Euler, Leonhard", 1768, "Institutionum calculi integralis, volume 1"),
    "midpoint": _RUNGE,
    "heun": _HEUN,
    "ralston": Reference(
        "Ralston, Anthony",
        1962,
        "Runge-Kutta methods with minimum error bounds",
        "Mathematics of Computation 16, 431-437",
        doi="10.1090/S0025-5718-1962-0150954-0",
    ),
    "heun3": _HEUN,
    "rk4": _KUTTA,
    "rk4_38": _KUTTA,
    "adaptive_heun": _NONSTIFF,
    "fehlberg2": Reference(
        "Fehlberg, Erwin",
        1969,
        "Low-order classical Runge-Kutta formulas with stepsize control and their application to "
        "some heat transfer problems",
        "NASA Technical Report R-315",
    ),
    "bosh3": Reference(
        "Bogacki, Przemysław and Shampine, Lawrence F.",
        1989,
        "A 3(2) pair of Runge-Kutta formulas",
        "Applied Mathematics Letters 2, 321-325",
        doi="10.1016/0893-9659(89)90079-7",
    ),
    "dopri5": Reference(
        "Dormand, John R. and Prince, Peter J.",
        1980,
        "A family of embedded Runge-Kutta formulae",
        "Journal of Computational and Applied Mathematics 6, 19-26",
        doi="10.1016/0771-050X(80)90013-3",
    ),
    "tsit5": Reference(
        "Tsitouras, Charalampos",
        2011,
        "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
        "Computers and Mathematics with Applications 62, 770-775",
        doi="10.1016/j.camwa.2011.06.002",
    ),
    "dopri8": _NONSTIFF,
    "implicit_euler": _STIFF,
    "implicit_midpoint": _BUTCHER,
    "trapezoid": Reference(
        "Dahlquist, Germund",
        1963,
        "A special stability problem for linear multistep methods",
        "BIT Numerical Mathematics 3, 27-43",
        doi="10.1007/BF01963532",
    ),
    "sdirk2": Reference(
        "Alexander, Roger",
        1977,
        "Diagonally implicit Runge-Kutta methods for stiff O.D.E.'s",
        "SIAM Journal on Numerical Analysis 14, 1006-1021",
        doi="10.1137/0714068",
    ),
    "trbdf2": Reference(
        "Hosea, M. E. and Shampine, Lawrence F.",
        1996,
        "Analysis and implementation of TR-BDF2",
        "Applied Numerical Mathematics 20, 21-37",
        doi="10.1016/0168-9274(95)00115-8",
    ),
    "kvaerno5": Reference(
        "Kværnø, Anne",
        2004,
        "Singly diagonally implicit Runge-Kutta methods with an explicit first stage",
        "BIT Numerical Mathematics 44, 489-502",
        doi="10.1023/B:BITN.0000046811.70614.38",
    ),
    "radau5": Reference(
        "Hairer, Ernst and Wanner, Gerhard",
        1999,
        "Stiff differential equations solved by Radau methods",
        "Journal of Computational and Applied Mathematics 111, 93-111",
        doi="10.1016/S0377-0427(99)00134-X",
    ),
    "radau_iia3": _STIFF,
    "gl4": _BUTCHER,
    "gl6": _BUTCHER,
    "leapfrog": _NONSTIFF,
    "velocity_verlet": Reference(
        "Swope, William C. and Andersen, Hans C. and Berens, Peter H. and Wilson, Kent R.",
        1982,
        "A computer simulation method for the calculation of equilibrium constants for the "
        "formation of physical clusters of molecules: Application to small water clusters",
        "Journal of Chemical Physics 76, 637-649",
        doi="10.1063/1.442716",
    ),
    "alf": _MALI,
    "reversible_heun": Reference(
        "Kidger, Patrick and Foster, James and Li, Xuechen and Lyons, Terry",
        2021,
        "Efficient and accurate gradients for neural SDEs",
        "Advances in Neural Information Processing Systems 34",
        arxiv="2105.13493",
    ),
    "reversible_dopri5": Reference(
        "McCallum, Sam and Foster, James",
        2024,
        "Efficient, accurate and stable gradients for neural ODEs",
        arxiv="2410.11648",
    ),
    "auto": _SWITCHING,
    "adams_bashforth": _NONSTIFF,
    "adams_moulton": _NONSTIFF,
    "scipy_radau": _STIFF,
    "scipy_bdf": Reference(
        "Shampine, Lawrence F. and Reichelt, Mark W.",
        1997,
        "The MATLAB ODE suite",
        "SIAM Journal on Scientific Computing 18, 1-22",
        doi="10.1137/S1064827594276424",
    ),
    "scipy_lsoda": _SWITCHING,
}

GRADIENTS = {
    "adjoint": Reference(
        "Chen, Ricky T. Q. and Rubanova, Yulia and Bettencourt, Jesse and Duvenaud, David",
        2018,
        "Neural ordinary differential equations",
        "Advances in Neural Information Processing Systems 31",
        arxiv="1806.07366",
    ),
    "checkpoint": Reference(
        "Griewank, Andreas and Walther, Andrea",
        2000,
        "Algorithm 799: revolve: an implementation of checkpointing for the reverse or adjoint "
        "mode of computational differentiation",
        "ACM Transactions on Mathematical Software 26, 19-45",
        doi="10.1145/347837.347846",
    ),
    "symplectic": Reference(
        "Matsubara, Takashi and Miyatake, Yuto and Yaguchi, Takaharu",
        2021,
        "Symplectic adjoint method for exact gradient of neural ODE with minimal memory",
        "Advances in Neural Information Processing Systems 34",
        arxiv="2102.09750",
    ),
    "forward": _NONSTIFF,
    "interpolated": Reference(
        "Daulbaev, Talgat and Katrutsa, Alexandr and Markeeva, Larisa and Gusak, Julia and "
        "Cichocki, Andrzej and Oseledets, Ivan",
        2020,
        "Interpolation technique to speed up gradients propagation in neural ODEs",
        "Advances in Neural Information Processing Systems 33",
        arxiv="2003.05271",
    ),
    "reversible": _MALI,
}
