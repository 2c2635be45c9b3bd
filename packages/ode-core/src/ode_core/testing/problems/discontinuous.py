"""The DETEST problems of class F, whose right-hand sides are not smooth, t from 0 to 20.

Source: Enright, Pryce, Two FORTRAN packages for assessing initial value methods, ACM TOMS 13
(1987). End values: extrapolation in binary128, piece by piece; of F5, the closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ode_core.testing.problems.reference import ClosedForm, ReferenceProblem, float64, stack

T1 = 20.0
SOURCE = "Enright, Pryce 1987"
_WHOLE = tuple(float(i) for i in range(1, 20))
_POWERS = sum(i ** (4 / 3) for i in _WHOLE)


def _even(t: Any) -> Any:
    return torch.floor(t) % 2 == 0


def _f1(t: Any, y: Tensor) -> Tensor:
    push = torch.where(_even(t), 1.0, -1.0).to(y.dtype)
    return stack(y[..., 1], 0.2 * y[..., 1] - (math.pi**2 + 0.01) * y[..., 0] + push)


def _f2(t: Any, y: Tensor) -> Tensor:
    return stack(55 - torch.where(_even(t), 1.5, 0.5).to(y.dtype) * y[..., 0])


def _f3(t: Any, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return stack(b, 0.01 * b * (1 - a**2) - a - torch.abs(torch.sin(math.pi * t)))


def _f4(t: Any, y: Tensor) -> Tensor:
    s = t - 5
    early = -2 / 21 - 120 * s / (1 + 4 * s**2) ** 16
    return stack(torch.where(t <= 10, early, -2 * y[..., 0]))


def _f5(t: Any, y: Tensor) -> Tensor:
    gaps = t[..., None] - torch.tensor(_WHOLE, dtype=t.dtype, device=t.device)
    slope = 4 / 3 * (gaps.sign() * gaps.abs() ** (1 / 3)).sum(-1)
    return stack(y[..., 0] * slope.to(y.dtype) / _POWERS)


def _f5_exact(t: float) -> Tensor:
    return float64(math.exp(sum(abs(t - i) ** (4 / 3) for i in _WHOLE) / _POWERS - 1))


def discontinuous() -> Iterator[ReferenceProblem]:
    """Yield F1 to F5."""
    table: tuple[tuple[Any, tuple[float, ...], tuple[float, ...], ClosedForm | None], ...] = (
        (_f1, (0.0, 0.0), (-12.94460621213473431488, 0.0), None),
        (_f2, (110.0,), (70.03731057008606686785,), None),
        (_f3, (0.0, 0.0), (-0.3726957553088177386452, -0.6230137949234192874429), None),
        (_f4, (1.0,), (9.815017249707418228409e-11,), None),
        (_f5, (1.0,), (1.0,), _f5_exact),
    )
    for number, (f, start, end, exact) in enumerate(table, 1):
        jumps = (10.0,) if number == 4 else _WHOLE
        yield ReferenceProblem(
            f"F{number}", f, start, T1, {T1: end}, SOURCE, exact, jump_times=jumps
        )
