"""Initial value problems in closed form: what a solver is measured with instead of another solver.

Every case comes for a state that is one tensor and for a pair (q, v) with q' = v, which is what a
solver with `takes_pairs = True` takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True, eq=False)
class Case:
    """y' = f(t, y), y(0) = y0 up to t1, and its solution; float64, a tensor or a pair (q, v)."""

    name: str
    f: Callable[..., Any]
    y0: Any
    t1: float
    exact: Callable[[float], Any]

    def mirrored(self) -> Case:
        """Return the same problem with time running the other way, from 0 to -t1."""
        return Case(f"mirrored {self.name}", _Mirror(self), _flip(self.y0), -self.t1, self._flipped)

    def _flipped(self, t: float) -> Any:
        return _flip(self.exact(-t))


@dataclass(frozen=True, eq=False)
class _Mirror:
    case: Case

    def __call__(self, t: Tensor, y: Any) -> Any:
        slope = self.case.f(-t, _flip(y))
        return (y[1], slope[1]) if isinstance(y, tuple) else -slope


def _flip(y: Any) -> Any:
    return (y[0], -y[1]) if isinstance(y, tuple) else y


def flat(y: Any) -> Tensor:
    """Return a state as one vector; a pair's parts one after the other."""
    parts = y if isinstance(y, tuple) else (y,)
    return torch.cat([part.reshape(-1) for part in parts])


def distance(a: Any, b: Any) -> float:
    """Return the largest difference of two states, NaN where one of them is."""
    difference = (flat(a).detach() - flat(b).detach()).abs()
    return float(difference.max()) if difference.numel() else 0.0


def cast(y: Any, dtype: torch.dtype, device: str = "cpu") -> Any:
    """Return a state in another dtype, on a device."""
    if isinstance(y, tuple):
        return tuple(part.to(device, dtype) for part in y)
    return y.to(device, dtype)


def vector(*values: float) -> Tensor:
    """Return numbers as a float64 vector."""
    return torch.tensor(values, dtype=F64)


def _circle(t: Tensor, y: Tensor) -> Tensor:
    growth, speed = torch.cos(t) / 2, 1 + t / 2
    return torch.stack([growth * y[0] - speed * y[1], speed * y[0] + growth * y[1]])


def _circle_exact(t: float) -> Tensor:
    radius, angle = math.exp(math.sin(t) / 2), t + t * t / 4
    return vector(radius * math.cos(angle), radius * math.sin(angle))


def _cycle(t: Tensor, y: Tensor) -> Tensor:
    square = y[0] * y[0] + y[1] * y[1]
    growth, speed, pace = (1 - square) / 2, 1 + square, 1 + torch.sin(t) / 2
    return pace * torch.stack([growth * y[0] - speed * y[1], speed * y[0] + growth * y[1]])


def _cycle_exact(t: float) -> Tensor:
    # The square of the radius is logistic, and the angle its integral, on a clock of its own.
    clock = t + (1 - math.cos(t)) / 2
    risen = 0.75 + 0.25 * math.exp(clock)
    radius, angle = math.sqrt(0.25 * math.exp(clock) / risen), clock + math.log(risen)
    return vector(radius * math.cos(angle), radius * math.sin(angle))


def _forced(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    q, v = y
    return v, torch.cos(2 * t) - q


def _forced_exact(t: float) -> tuple[Tensor, Tensor]:
    own, push = (1 + 1 / 3, 2 + 1 / 3), 1 / 3
    q = [a * math.cos(t) - push * math.cos(2 * t) for a in own]
    v = [-a * math.sin(t) + 2 * push * math.sin(2 * t) for a in own]
    return vector(*q), vector(*v)


def _soliton(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    q, v = y
    return v, q - 2 * q * q * q


def _soliton_exact(t: float) -> tuple[Tensor, Tensor]:
    q = 1 / math.cosh(t)
    return vector(q), vector(-q * math.tanh(t))


def turning(*, pair: bool) -> Case:
    """Return a case that is linear in the state, vector-valued, with time in f."""
    if pair:
        return Case("q'' = cos 2t - q", _forced, _forced_exact(0.0), 2.0, _forced_exact)
    name = "y' = (cos(t)/2 + i (1 + t/2)) y"
    return Case(name, _circle, _circle_exact(0.0), 2.0, _circle_exact)


def bending(*, pair: bool) -> Case:
    """Return a case that is not linear in the state."""
    if pair:
        return Case("q'' = q - 2 q^3", _soliton, _soliton_exact(0.0), 1.5, _soliton_exact)
    name = "z' = (1 + sin(t)/2) ((1 - |z|^2)/2 + i (1 + |z|^2)) z"
    return Case(name, _cycle, _cycle_exact(0.0), 2.0, _cycle_exact)


@dataclass(frozen=True)
class Decay:
    """y' = -rate y entry by entry, or q'' = -rate q for a pair; any shape, dtype and device."""

    rate: Any = 1.0

    def __call__(self, t: Tensor, y: Any) -> Any:
        """Return the slope, like the state."""
        return (y[1], -self.rate * y[0]) if isinstance(y, tuple) else -self.rate * y


@dataclass(frozen=True)
class Steady:
    """y' = value wherever; for a pair the acceleration is `value`."""

    value: float

    def __call__(self, t: Tensor, y: Any) -> Any:
        """Return the slope, like the state."""
        if isinstance(y, tuple):
            return y[1], torch.full_like(y[0], self.value)
        return torch.full_like(y, self.value)


def state_of(y: Tensor, *, pair: bool) -> Any:
    """Return a tensor as a state: itself, or the pair (y, 0)."""
    return (y, torch.zeros_like(y)) if pair else y
