"""An initial value problem whose solution is known as numbers, not as another solver's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

VectorField: TypeAlias = Callable[[Any, Tensor], Tensor]
ClosedForm: TypeAlias = Callable[[float], Tensor]


@dataclass(frozen=True, eq=False)
class ReferenceProblem:
    """An initial value problem from time 0 and its solution to 18 digits.

    `f(t, y)` takes a state `[..., n]` of any float dtype with `t` 0-d, or `[B]` with a state
    `[B, n]`. `start` is the state at 0, `values` maps times to states, `t1` is the one of those
    times that measurements use. `exact(t)`, where there is a closed form, is the state at any time
    as a float64 `[n]`. At `jump_times`, all before `t1`, f is not smooth. `floor` is the error that
    rounding the data to float64 alone may cause at `t1`.
    """

    name: str
    f: VectorField
    start: tuple[float, ...]
    t1: float
    values: Mapping[float, tuple[float, ...]]
    source: str
    exact: ClosedForm | None = None
    stiff: bool = False
    jump_times: tuple[float, ...] = ()
    floor: float = 1e-14

    @property
    def y0(self) -> Tensor:
        """The state at time 0, a new float64 `[n]`."""
        return torch.tensor(self.start, dtype=torch.float64)

    @property
    def y1(self) -> Tensor:
        """The state at `t1`, a new float64 `[n]`."""
        return self.y(self.t1)

    def y(self, t: float) -> Tensor:
        """Return the state at one of the times of `values`, a new float64 `[n]`."""
        return torch.tensor(self.values[t], dtype=torch.float64)

    def error(self, y: Tensor, t: float | None = None) -> float:
        """Return the largest |y - truth| / (1 + |truth|) of a computed state `[..., n]` at `t1`.

        `t` is another of the times of `values`.
        """
        truth = self.y(self.t1 if t is None else t)
        difference = (y.detach().to("cpu", torch.float64) - truth).abs()
        return float((difference / (1 + truth.abs())).max())


def stack(*parts: Tensor) -> Tensor:
    """Return `[..., n]` from n parts `[...]`."""
    return torch.stack(parts, -1)


def float64(*parts: float) -> Tensor:
    """Return a new float64 `[n]`."""
    return torch.tensor(parts, dtype=torch.float64)


def linear(f: VectorField, start: tuple[float, ...]) -> ClosedForm:
    """Return the matrix exponential that solves y' = f(t, y) where f is linear and autonomous."""

    def exact(t: float) -> Tensor:
        rows = f(0.0, torch.eye(len(start), dtype=torch.float64))
        solved: Tensor = torch.linalg.matrix_exp(rows.T * t) @ float64(*start)
        return solved

    return exact
