"""Well-known problems that are not stiff: oscillators, chaos, orbits.

Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, and as each problem
says. End values: extrapolation in binary128 at 1e-28 and again at 1e-30.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ode_core.testing.problems.reference import ReferenceProblem, VectorField, stack


def _lotka_volterra(t: Any, y: Tensor) -> Tensor:
    prey, hunters = y.unbind(-1)
    return stack(1.5 * prey - prey * hunters, -3 * hunters + prey * hunters)


def _lorenz(t: Any, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return stack(10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c)


def _arenstorf(t: Any, y: Tensor) -> Tensor:
    moon = 0.012277471
    earth = 1 - moon
    a, b, da, db = y.unbind(-1)
    r1, r2 = torch.hypot(a + moon, b) ** 3, torch.hypot(a - earth, b) ** 3
    return stack(
        da,
        db,
        a + 2 * db - earth * (a + moon) / r1 - moon * (a - earth) / r2,
        b - 2 * da - earth * b / r1 - moon * b / r2,
    )


def van_der_pol(eps: float) -> VectorField:
    """Return y'' = ((1 - y^2) y' - y) / eps as a system for (y, y')."""

    def f(t: Any, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return stack(b, ((1 - a**2) * b - a) / eps)

    return f


def _rigid_body(t: Any, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return stack(-2 * b * c, 1.25 * a * c, -0.5 * a * b)


def _spiral(t: Any, y: Tensor) -> Tensor:
    a, b = (y**3).unbind(-1)
    return stack(-0.1 * a - 2 * b, 2 * a - 0.1 * b)


def _fitzhugh_nagumo(t: Any, y: Tensor) -> Tensor:
    v, w = y.unbind(-1)
    return stack(v - v**3 / 3 - w + 0.5, (v + 0.7 - 0.8 * w) / 12.5)


def _pleiades(t: Any, y: Tensor) -> Tensor:
    """Return the motion of seven stars in a plane, `y` being x, y, x' and y' of all of them."""
    places = y[..., :14].unflatten(-1, (2, 7))
    gaps = places.unsqueeze(-2) - places.unsqueeze(-1)
    # A star does not pull itself: its gap to itself is zero over one.
    same = torch.eye(7, dtype=y.dtype, device=y.device)
    cubed = (torch.linalg.vector_norm(gaps, dim=-3) + same) ** 3
    masses = torch.arange(1, 8, dtype=y.dtype, device=y.device)
    pulls = (gaps * masses / cubed.unsqueeze(-3)).sum(-1)
    return torch.cat((y[..., 14:], pulls.flatten(-2)), -1)


_PLEIADES_START = (
    3.0,
    3.0,
    -1.0,
    -3.0,
    2.0,
    -2.0,
    2.0,
    3.0,
    -3.0,
    2.0,
    0.0,
    0.0,
    -4.0,
    4.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    1.75,
    -1.5,
    0.0,
    0.0,
    0.0,
    -1.25,
    1.0,
    0.0,
    0.0,
)

_PLEIADES = (
    0.370613914397051290,
    3.23728409205723309,
    -3.22255903241832335,
    0.659709145577530836,
    0.342558170715657979,
    1.56217210140063102,
    -0.700309292221249539,
    -3.94343758551739206,
    -3.27138097397254993,
    5.22508184345654419,
    -2.59061243497746951,
    1.19821369339227464,
    -0.242968234493582341,
    1.09144924042897975,
    3.41700380631431475,
    1.35458450162550122,
    -2.59006559781077542,
    2.02505373471424111,
    -1.15581510016044909,
    -0.807298817022302173,
    0.595239635420871877,
    -3.74124496123400847,
    0.377345968575062904,
    0.938685886955107889,
    0.366792222720056987,
    -0.347404635380849437,
    2.34491544818093692,
    -1.94702043426329190,
)

_LORENZ = {
    1.0: (-9.408450567056036205393, -9.096199071186478968342, 28.58162762439233910846),
    10.0: (-5.857685382424090020222, -5.831082486426100442922, 23.93213298702756264741),
    20.0: (-8.0211436133174370677, -11.905464749171750375, 19.856374858398413121),
}

_LORENZ_ONES = {
    1.0: (-9.378570010925062360842, -8.357033788426644732902, 29.36232533736342818034),
    10.0: (-4.902687541134645731904, -3.743872921802919616315, 24.69085810279055545322),
    20.0: (13.793199595128618832, 12.951803936189898540, 34.901608681135142907),
}


def smooth() -> Iterator[ReferenceProblem]:
    """Yield the problems with one starting point and several times or parameters."""
    yield ReferenceProblem(
        "lotka_volterra",
        _lotka_volterra,
        (1.0, 1.0),
        10.0,
        {
            1.0: (2.772850901841112119126, 0.2587108781425639539004),
            10.0: (1.026344767575089319139, 0.9096910781360416175482),
        },
        "Lotka 1925, Volterra 1926, with a, b, c, d = 1.5, 1, 3, 1",
    )
    lorenz = "Lorenz 1963 with sigma, rho, beta = 10, 28, 8/3"
    yield ReferenceProblem("lorenz", _lorenz, (1.0, 0.0, 0.0), 10.0, _LORENZ, lorenz, floor=1e-10)
    yield ReferenceProblem(
        "lorenz_ones", _lorenz, (1.0, 1.0, 1.0), 10.0, _LORENZ_ONES, lorenz, floor=1e-10
    )
    yield from _van_der_pol_problems()
    yield ReferenceProblem(
        "rigid_body",
        _rigid_body,
        (1.0, 0.0, 0.9),
        20.0,
        {20.0: (0.6062038539648122217885, 0.6287472104501779703750, 0.8073851485756025755419)},
        "Euler's equations of a rigid body",
    )
    yield ReferenceProblem(
        "spiral",
        _spiral,
        (2.0, 0.0),
        25.0,
        {
            1.5: (1.291991562976786391258, 0.9725860744345164253896),
            25.0: (-0.4436234866986349453892, 0.2794406416189389982995),
        },
        "Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations, 2018",
    )
    yield ReferenceProblem(
        "fitzhugh_nagumo",
        _fitzhugh_nagumo,
        (1.0, 1.0),
        10.0,
        {10.0: (-1.954045952935474443962, 0.9943443737838957231939)},
        "FitzHugh 1961, Nagumo 1962",
    )


def _van_der_pol_problems() -> Iterator[ReferenceProblem]:
    table: tuple[tuple[str, float, tuple[float, ...], bool], ...] = (
        ("1e-2", 0.01, (1.939358532782651734392, -0.7008150573580740333675), False),
        ("3e-3", 0.003, (1.819909970441255326309, -0.7863147552287437452042), False),
        ("1e-6", 1e-6, (1.706167732170483, -0.8928097010247975), True),
    )
    for label, eps, end, stiff in table:
        yield ReferenceProblem(
            f"van_der_pol_{label}",
            van_der_pol(eps),
            (2.0, 0.0),
            2.0,
            {2.0: end},
            "Van der Pol 1926, as in Hairer, Wanner II" + ("; IVP test set" if stiff else ""),
            stiff=stiff,
            floor=1e-12,
        )


def celestial() -> Iterator[ReferenceProblem]:
    """Yield Arenstorf's two orbits about the earth and the moon, and the Pleiades."""
    large, small = 17.0652165601579625588917206249, 11.124340337266085134999734047
    start = (0.994, 0.0, 0.0, -2.00158510637908252240537862224)
    near = (0.994, 0.0, 0.0, -2.0317326295573368357302057924)
    at_8 = (
        -1.174553507276900387979,
        -0.2759450770145384736707,
        -0.2531707499679331793440,
        0.4473767478598746287857,
    )
    source = "Arenstorf 1963; Hairer, Nørsett, Wanner I, eq. 0.1"
    # With the data rounded to float64 the exact orbit misses its start by 5e-11.
    yield ReferenceProblem(
        "arenstorf", _arenstorf, start, large, {8.0: at_8, large: start}, source, floor=5e-11
    )
    yield ReferenceProblem(
        "arenstorf_small", _arenstorf, near, small, {small: near}, source, floor=5e-11
    )
    yield ReferenceProblem(
        "pleiades",
        _pleiades,
        _PLEIADES_START,
        3.0,
        {3.0: _PLEIADES},
        "Hairer, Nørsett, Wanner I, eq. II.10.3; IVP test set",
        floor=1e-12,
    )
