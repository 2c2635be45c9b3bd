"""The DETEST problems of the classes A, B, D and E, t from 0 to 20.

Source: Hull, Enright, Fellen, Sedgwick, Comparing numerical methods for ordinary differential
equations, SIAM J. Numer. Anal. 9 (1972); Enright, Pryce, Algorithm 648, ACM TOMS 13 (1987). End
values: closed forms in 45 digits, or extrapolation in binary128 at 1e-28 and again at 1e-30.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ode_core.testing.problems.reference import (
    ClosedForm,
    ReferenceProblem,
    VectorField,
    float64,
    linear,
    stack,
)

T1 = 20.0
SOURCE = "Hull, Enright, Fellen, Sedgwick 1972"


def _a1(t: Any, y: Tensor) -> Tensor:
    return -y


def _a2(t: Any, y: Tensor) -> Tensor:
    return -0.5 * y**3


def _a3(t: Any, y: Tensor) -> Tensor:
    return stack(y[..., 0] * torch.cos(t))


def _a4(t: Any, y: Tensor) -> Tensor:
    return y / 4 * (1 - y / 20)


def _a5(t: Any, y: Tensor) -> Tensor:
    return stack((y[..., 0] - t) / (y[..., 0] + t))


def _b1(t: Any, y: Tensor) -> Tensor:
    prey, hunters = y[..., 0], y[..., 1]
    return stack(2 * (prey - prey * hunters), -(hunters - prey * hunters))


def _b2(t: Any, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return stack(b - a, a - 2 * b + c, b - c)


def _b3(t: Any, y: Tensor) -> Tensor:
    a, b, _ = y.unbind(-1)
    return stack(-a, a - b**2, b**2)


def _b4(t: Any, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    r = torch.hypot(a, b)
    return stack(-b - a * c / r, a - b * c / r, a / r)


def _b5(t: Any, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return stack(b * c, -a * c, -0.51 * a * b)


def _kepler(t: Any, y: Tensor) -> Tensor:
    a, b, da, db = y.unbind(-1)
    cubed = torch.hypot(a, b) ** 3
    return stack(da, db, -a / cubed, -b / cubed)


def _e1(t: Any, y: Tensor) -> Tensor:
    s = t + 1
    return stack(y[..., 1], -y[..., 1] / s - (1 - 0.25 / s**2) * y[..., 0])


def _e2(t: Any, y: Tensor) -> Tensor:
    return stack(y[..., 1], (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0])


def _e3(t: Any, y: Tensor) -> Tensor:
    return stack(y[..., 1], y[..., 0] ** 3 / 6 - y[..., 0] + 2 * torch.sin(2.78535 * t))


def _e4(t: Any, y: Tensor) -> Tensor:
    return stack(y[..., 1], 0.032 - 0.4 * y[..., 1] ** 2)


def _e5(t: Any, y: Tensor) -> Tensor:
    return stack(y[..., 1], torch.sqrt(1 + y[..., 1] ** 2) / (25 - t))


def _b4_exact(t: float) -> Tensor:
    r = 2 + math.cos(t)
    return float64(r * math.cos(t), r * math.sin(t), math.sin(t))


def _orbit(e: float) -> ClosedForm:
    """Return the solution of Kepler's equation E - e sin E = t, by Newton's method."""

    def exact(t: float) -> Tensor:
        anomaly = t + e * math.sin(t)
        for _ in range(50):
            anomaly -= (anomaly - e * math.sin(anomaly) - t) / (1 - e * math.cos(anomaly))
        cos, sin, minor = math.cos(anomaly), math.sin(anomaly), math.sqrt(1 - e * e)
        speed = 1 / (1 - e * cos)
        return float64(cos - e, minor * sin, -sin * speed, minor * cos * speed)

    return exact


def _e1_exact(t: float) -> Tensor:
    s = t + 1
    amplitude = math.sqrt(2 / (math.pi * s))
    return float64(amplitude * math.sin(s), amplitude * (math.cos(s) - math.sin(s) / (2 * s)))


def _e4_exact(t: float) -> Tensor:
    a = math.sqrt(0.08)
    return float64(30 + math.log(math.cosh(0.4 * a * t)) / 0.4, a * math.tanh(0.4 * a * t))


def _e5_exact(t: float) -> Tensor:
    u = 25 - t
    return float64(12.5 * math.log(25 / u) - (625 - u * u) / 100, (25 / u - u / 25) / 2)


# Equations, the state at 0, the state at 20, the closed form.
_TABLE: dict[str, tuple[VectorField, tuple[float, ...], tuple[float, ...], ClosedForm | None]] = {
    "A1": (_a1, (1.0,), (2.061153622438557827966e-9,), lambda t: float64(math.exp(-t))),
    "A2": (_a2, (1.0,), (0.2182178902359923812661,), lambda t: float64(1 / math.sqrt(1 + t))),
    "A3": (_a3, (1.0,), (2.491650271850414523461,), lambda t: float64(math.exp(math.sin(t)))),
    "A4": (
        _a4,
        (1.0,),
        (17.73016648131483984887,),
        lambda t: float64(20 / (1 + 19 * math.exp(-t / 4))),
    ),
    "A5": (_a5, (4.0,), (-0.7887826688964014237307,), None),
    "B1": (_b1, (1.0, 3.0), (0.6761876008576606607256, 0.1860816099640029800751), None),
    "B2": (
        _b2,
        (2.0, 0.0, 1.0),
        (1.000000001030576811219, 1.0, 0.9999999989694231887807),
        linear(_b2, (2.0, 0.0, 1.0)),
    ),
    "B3": (
        _b3,
        (1.0, 0.0, 0.0),
        (2.061153622438557827966e-9, 0.05257228022048512528881, 0.9474277177183612522726),
        None,
    ),
    "B4": (
        _b4,
        (3.0, 0.0, 0.0),
        (0.9826950928006530499325, 2.198447081694929702246, 0.9129452507276276543761),
        _b4_exact,
    ),
    "B5": (
        _b5,
        (0.0, 1.0, 1.0),
        (-0.9396570798729203961884, -0.3421177754000749065348, 0.7414126596199953007826),
        None,
    ),
    "E1": (
        _e1,
        (0.6713967071418030904164, 0.09540051444747453431234),
        (0.1456723600728246843644, -0.09883500195574578921149),
        _e1_exact,
    ),
    "E2": (_e2, (2.0, 0.0), (2.008149762174948592014, -0.04250887527320214698593), None),
    "E3": (_e3, (0.0, 0.0), (-0.1004178858647240710356, 0.2411400132095955582423), None),
    "E4": (_e4, (30.0, 0.0), (33.95091444646556399773, 0.2767822659672867790179), _e4_exact),
    "E5": (_e5, (0.0, 0.0), (14.11797390542625468251, 2.4), _e5_exact),
}

_ORBITS: dict[str, tuple[float, tuple[float, ...]]] = {
    "D1": (
        0.1,
        (
            0.2198835352008396612849,
            0.9427076846341813085212,
            -0.9787659841058176514577,
            0.3287977990962036082625,
        ),
    ),
    "D2": (
        0.3,
        (
            -0.1777027357140411693320,
            0.9467784719905892580435,
            -1.030294163192969574011,
            0.1211074890053952163349,
        ),
    ),
    "D3": (
        0.5,
        (
            -0.5780432953035361232751,
            0.8633840009194192801336,
            -0.9595083730380727356264,
            -0.06504915126712090167719,
        ),
    ),
    "D4": (
        0.7,
        (
            -0.9538990293416394397392,
            0.6907409024219431516987,
            -0.8212674270877433094538,
            -0.1539574259125824707994,
        ),
    ),
    "D5": (
        0.9,
        (
            -1.295266250987574367717,
            0.4003938963792321527298,
            -0.6775390924707565887476,
            -0.1270838154278686187669,
        ),
    ),
}


def detest_abde() -> Iterator[ReferenceProblem]:
    """Yield A1 to A5, B1 to B5, D1 to D5 and E1 to E5."""
    for name, (f, start, end, exact) in _TABLE.items():
        yield ReferenceProblem(name, f, start, T1, {T1: end}, SOURCE, exact)
    for name, (e, end) in _ORBITS.items():
        start = (1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e)))
        # A sum of floats is not the decimal 1 - e; the orbit turns that into a shift along it.
        yield ReferenceProblem(name, _kepler, start, T1, {T1: end}, SOURCE, _orbit(e), floor=1e-13)
