"""Stiff initial value problems with reference end values; all in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from tests.problems import F64

_HIRES = torch.tensor(
    [
        [-1.71, 0.43, 8.32, 0, 0, 0, 0, 0],
        [1.71, -8.75, 0, 0, 0, 0, 0, 0],
        [0, 0, -10.03, 0.43, 0.035, 0, 0, 0],
        [0, 8.32, 1.71, -1.12, 0, 0, 0, 0],
        [0, 0, 0, 0, -1.745, 0.43, 0.43, 0],
        [0, 0, 0, 0.69, 1.71, -0.43, 0.69, 0],
        [0, 0, 0, 0, 0, 0, -1.81, 0],
        [0, 0, 0, 0, 0, 0, 1.81, 0],
    ],
    dtype=F64,
)
_REACTION = torch.tensor([0, 0, 0, 0, 0, -280.0, 280.0, -280.0], dtype=F64)
_FEED = torch.tensor([0.0007, 0, 0, 0, 0, 0, 0, 0], dtype=F64)


def hires(t, y):
    """Eight species; the sixth and the eighth react."""
    return y @ _HIRES.T + _FEED + (y[..., 5] * y[..., 7]).unsqueeze(-1) * _REACTION


def robertson(t, y):
    a, b, c = y.unbind(-1)
    first, last = -0.04 * a + 1e4 * b * c, 3e7 * b * b
    return torch.stack([first, -first - last, last], -1)


def relaxation(t, y):
    """Van der Pol's equation with epsilon = 1e-6."""
    a, b = y.unbind(-1)
    return torch.stack([b, ((1 - a * a) * b - a) / 1e-6], -1)


def prothero_robinson(t, y):
    """y' = -1000 (y - cos t) - sin t, solved by cos t."""
    return -1000 * (y - torch.cos(t)) - torch.sin(t)


@dataclass(frozen=True)
class Stiff:
    """f, the start, the end, the reference there, and the size below which a component is small."""

    f: Any
    y0: tuple[float, ...]
    t1: float
    end: tuple[float, ...]
    small: float

    def start(self):
        return torch.tensor(self.y0, dtype=F64)

    def error(self, y, tolerance):
        """The largest error over atol + rtol |y|, rtol = tolerance, atol = small * tolerance."""
        end = torch.tensor(self.end, dtype=F64)
        return ((y - end).abs() / (tolerance * (self.small + end.abs()))).max().item()


# Robertson's second component is at most 4e-5: its atol is a millionth of rtol, and at the end of
# the long interval, where it is 8e-14, ten orders below.
STIFF = {
    "hires": Stiff(
        hires,
        (1, 0, 0, 0, 0, 0, 0, 0.0057),
        321.8122,
        (
            7.3713125733256678073e-4,
            1.4424857263161846582e-4,
            5.8887297409675750075e-5,
            0.0011756513432831491455,
            0.0023863561988313304688,
            0.0062389682527427957866,
            0.0028499983951857686579,
            0.0028500016048142313421,
        ),
        1e-4,
    ),
    "robertson 40": Stiff(
        robertson,
        (1, 0, 0),
        40.0,
        (0.71582706871940509047, 9.1855347645577639039e-6, 0.28416374574583035176),
        1e-6,
    ),
    "robertson 100": Stiff(
        robertson,
        (1, 0, 0),
        100.0,
        (0.61723488239608775602, 6.1535912746391229234e-6, 0.38275896401263760486),
        1e-6,
    ),
    "robertson 1e11": Stiff(
        robertson,
        (1, 0, 0),
        1e11,
        (2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050),
        1e-10,
    ),
    "van der pol 1e-6": Stiff(
        relaxation, (2, 0), 2.0, (1.706167732170483, -0.8928097010247975), 1.0
    ),
}
PROTHERO_ROBINSON_END = math.cos(1.0)
