"""Any explicit one-step method made reversible: two solutions, each driven by the other."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core import ArgumentError, Step
from ode_core.interpolation import interpolant
from ode_core.replay import recorded
from ode_core.rows import along
from ode_solvers.explicit import RungeKutta
from ode_solvers.methods import dopri5
from ode_solvers.reversible import unless_still

if TYPE_CHECKING:
    from ode_core import Solver, Tolerance
    from ode_core.protocols import Interpolant, VectorField
    from ode_solvers.kernels.contract import Kernel
    from ode_solvers.reversible import Point, Pull, Span

# Tolerances that the two solutions may differ by, and by which a step may part them further.
_PARTED, _PARTING = 100.0, 10.0


@dataclass(frozen=True)
class Coupled:
    """A reversible method of the base's order, with two of its increments a step.

    With the base's increment Psi over h, lambda = `coupling` and the second solution z:
    y1 = lambda y + (1 - lambda) z + Psi_h(z), z1 = z - Psi_(-h)(y1). The carry is `(z,)`. A
    coupling below 1 is what holds the two together, and loses a factor of 1/lambda to rounding with
    every step taken back. The error of a step is the base's estimate for the first increment, or a
    tenth of what it parts the solutions further, which the estimate does not see. Where f drives
    the two apart by 100 tolerances, as decay does, no step is accepted any more.

    Raises ArgumentError for a base that is implicit or needs a history, and a coupling that is not
    in (0, 1].

    Source: McCallum, Foster, Efficient, accurate and stable gradients for neural ODEs,
    arXiv:2410.11648 (2024).
    """

    base: Solver
    coupling: float = 0.999
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        base = self.base
        if base.implicit or not base.one_step or not getattr(base, "differentiable", True):
            raise ArgumentError(
                f"Reversible takes an explicit method that starts from a state alone; {base.name} "
                "is none: take 'dopri5' or another explicit Runge-Kutta method"
            )
        if not 0.0 < self.coupling <= 1.0:
            raise ArgumentError(f"coupling is above 0 and at most 1; got {self.coupling!r:.60}")

    @property
    def name(self) -> str:
        """The base's name, marked."""
        return f"reversible_{self.base.name}"

    @property
    def order(self) -> int:
        """The base's order."""
        return self.base.order

    @property
    def adaptive(self) -> bool:
        """Whether the base estimates its error."""
        return self.base.adaptive

    @property
    def per_sample(self) -> bool:
        """Whether the base takes per-sample steps."""
        return getattr(self.base, "per_sample", False)

    @property
    def moving_times(self) -> bool:
        """Whether the base takes times as tensors, and is differentiable in them."""
        return getattr(self.base, "moving_times", False)

    @property
    def error_estimate(self) -> str:
        """Which error estimate decides on the steps."""
        own = getattr(self.base, "error_estimate", f"error estimate of {self.base.name}")
        return f"{own}, and the difference of two coupled solutions"

    def init(self, field: VectorField, t: Any, y: Tensor) -> tuple[Tensor]:
        """Return the carry: the second solution starts where the first does."""
        del field, t
        return (y.clone(),)

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1 by the second solution's increment, then that by y's."""
        (z,) = carry
        parted: Any = None if tolerance is None else tolerance.norm(y - z, y, y)
        if isinstance(parted, float) and parted > _PARTED:
            # No step is short enough to mend what the steps before have left.
            return Step(y, sys.float_info.max, carry, None)
        ahead = self._base_step(field, t0, t1, z, tolerance)
        # As y plus a little of z: equal copies stay equal to the last bit.
        y1 = y + (1.0 - self.coupling) * (z - y) + (ahead.y - z)
        error = ahead.error
        if isinstance(error, float) and error > 1.0:
            return Step(y1, error, carry, None)
        z1 = z - (self._base_step(field, t1, t0, y1, None).y - y1)
        y1, z1 = unless_still(t0, t1, y, y1), unless_still(t0, t1, z, z1)
        if error is not None and tolerance is not None:
            further = tolerance.norm(y1 - z1, y, y1) - parted
            error = _larger(error, further / _PARTING)
            if isinstance(error, Tensor):
                error = torch.where(parted > _PARTED, sys.float_info.max, error)
        return Step(y1, error, (z1,), (z, ahead))

    def reverse(
        self, field: VectorField, t0: Any, t1: Any, y1: Tensor, carry1: tuple[Tensor]
    ) -> tuple[Tensor, tuple[Tensor]]:
        """Return the state and the carry at t0 of the step that led to those at t1."""
        (z1,) = carry1
        z = z1 + (self._base_step(field, t1, t0, y1, None).y - y1)
        ahead = self._base_step(field, t0, t1, z, None).y - z
        y = z + (y1 - ahead - z) / self.coupling
        return unless_still(t0, t1, y1, y), (unless_still(t0, t1, z1, z),)

    def pull_back(
        self, field: VectorField, span: Span, end: Point, grads: Point, pull: Pull
    ) -> tuple[Point, Point]:
        """Return the state and the carry at t0, and their gradients, from those at t1."""
        (y1, (z1,)), (gy, (gz,)), (t0, t1) = end, grads, span
        back, leaf = recorded(lambda y: self._base_step(field, t1, t0, y, None).y, y1)
        gy = gy + gz + pull(back, leaf, -gz)
        z = z1 + (back - y1)
        ahead, leaf = recorded(lambda y: self._base_step(field, t0, t1, y, None).y, z)
        y = z + (y1 - (ahead - z) - z) / self.coupling
        gy, gz = self.coupling * gy, gz - self.coupling * gy + pull(ahead, leaf, gy)
        return (y, (z,)), (gy, (gz,))

    def interpolant(
        self, field: VectorField, t0: Any, t1: Any, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return the base's continuous output of the second solution, moved by y - z."""
        z, ahead = step.dense
        inner = interpolant(self.base, field, (t0, t1), z, ahead)
        return Moved(inner, y0 - z, self.coupling)

    def _base_step(
        self, field: VectorField, t0: Any, t1: Any, y: Tensor, tolerance: Tolerance | None
    ) -> Step:
        base, carry = self.base, self.base.init(field, t0, y)
        if tolerance is None and isinstance(base, RungeKutta):
            # Without the slope at an end that no step starts from.
            return base.replay(field, t0, t1, y, carry, y)
        return base.step(field, t0, t1, y, carry, tolerance)


@dataclass(frozen=True, eq=False)
class Moved:
    """A continuous output moved by a difference that the step shrinks by the coupling."""

    inner: Callable[[Any], Tensor]
    difference: Tensor
    coupling: float

    def __call__(self, theta: Any) -> Tensor:
        """Return the state at t0 + theta dt."""
        left = 1.0 - theta * (1.0 - self.coupling)
        scale = along(left, self.difference) if isinstance(left, Tensor) else left
        return self.inner(theta) + scale * self.difference


def _larger(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.maximum(a, b)
    # The larger of a number and NaN is the first for Python.
    return math.inf if math.isnan(b) else max(float(a), b)


def reversible_dopri5(coupling: float = 0.999, kernel: Kernel | str | None = None) -> Coupled:
    """Return two coupled solutions by Dormand and Prince's method, twelve evaluations a step."""
    return Coupled(dopri5(kernel), coupling)
