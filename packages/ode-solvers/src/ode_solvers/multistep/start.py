"""The first steps of a multistep method: Dormand and Prince's, whose order is high enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_solvers.reversible import size
from ode_solvers.tables.dopri5 import DOPRI5

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.protocols import VectorField
    from ode_solvers.tableau import Row


class Start(NamedTuple):
    """A Runge-Kutta step: the state at its end, the error estimate, and all seven slopes."""

    y: Tensor
    error: Tensor
    slopes: tuple[Tensor, ...]


def start(field: VectorField, t0: Any, t1: Any, y: Tensor, slope: Tensor) -> Start:
    """Return a step of dopri5 from t0, where f is `slope`, to t1: six evaluations."""
    h = size(t0, t1, y)
    slopes, state = [slope], y
    for row, node in zip(DOPRI5.stage_rows, DOPRI5.c[1:], strict=True):
        state = (y + h * _sum(row, slopes)).to(y.dtype)
        slopes.append(field(t1 if node == 1.0 else t0 + node * (t1 - t0), state))
    return Start(state, h * _sum(DOPRI5.error_rows[0], slopes), tuple(slopes))


def rise(theta: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """Return dopri5's continuous output as a sum of slopes; `theta` is `[]`, or `[B, 1, ...]`."""
    assert DOPRI5.dense is not None
    total = torch.zeros_like(slopes[0])
    for coefficients, slope in zip(DOPRI5.dense.coefficients, slopes, strict=True):
        weight = theta * 0.0
        for coefficient in reversed(coefficients):
            weight = (weight + coefficient) * theta
        total = total + weight.to(slope.dtype) * slope
    return total


def _sum(row: Row, slopes: Sequence[Tensor]) -> Tensor:
    (first, weight), *others = row
    total = slopes[first] * weight
    for index, weight in others:
        total = torch.add(total, slopes[index], alpha=weight)
    return total
