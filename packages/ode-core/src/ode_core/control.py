"""Step-size control: controllers, and the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ode_core.errors import ArgumentError
from ode_core.numbers import (
    Numbers,
    at_least,
    at_most,
    choose,
    larger,
    maybe,
    numbers,
    smaller,
    tensor,
    unwarned,
)
from ode_core.rows import along

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_core.tolerance import Tolerance


@dataclass(frozen=True)
class FixedSteps:
    """Steps that are given, not chosen: of size `dt`, or from node to node of a grid.

    `grid` is a monotone sequence of times that starts and ends where the solve does.
    """

    grid: tuple[float, ...] | None = None

    def __init__(self, grid: Sequence[float] | Tensor | None = None) -> None:
        nodes = None if grid is None else tuple(float(node) for node in grid)
        if nodes is not None and (len(nodes) < 2 or not _monotone(nodes)):
            raise ArgumentError(
                "grid takes at least two times, strictly rising or strictly falling; "
                f"got {list(nodes)[:6]}"
            )
        object.__setattr__(self, "grid", nodes)

    def nodes(self, t0: float, t1: float, dt: float | None) -> list[float]:
        """Return the ends of all steps from t0 to t1; the last is t1 itself, to the bit.

        Raises ArgumentError where the grid does not run from t0 to t1, or there is neither grid
        nor `dt`.
        """
        if t0 == t1:
            return []
        if self.grid is not None:
            if self.grid[0] != t0 or self.grid[-1] != t1:
                raise ArgumentError(
                    f"grid runs from {self.grid[0]} to {self.grid[-1]} but the solve from {t0} to "
                    f"{t1}; give the grid the same ends"
                )
            return list(self.grid[1:])
        if dt is None:
            raise ArgumentError("fixed steps take dt=..., or FixedSteps(grid=...)")
        # i * dt keeps rounding out of the nodes; the slack keeps a sliver off the end.
        count = max(1, math.ceil(abs(t1 - t0) / dt - 1e-9))
        signed = math.copysign(dt, t1 - t0)
        return [t0 + i * signed for i in range(1, count)] + [t1]


def _monotone(nodes: Sequence[float]) -> bool:
    pairs = list(pairwise(nodes))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)


PIDMemory = tuple[Any, Any, Any]
# Hairer's PI controller, whose beta is P/p = 0.04.
_USUAL = (0.2, 0.65, 0.0)


@dataclass(frozen=True)
class PIDController:
    """The step size from this error (I), the one before (P) and the one before that (D).

    With error ratios e, e', e'' and the method's order p, the factor is
    `safety * e^-b1 * e'^-b2 * e''^-b3`, where b1 = (P + I + D)/p, b2 = -(P + 2D)/p and b3 = D/p,
    but at least `floor * safety * e^(-1/p)`, a share of what integral control would take: else a
    very small error, such as that of a cautious first step, would hold the next steps back. It is
    kept within `factor_min` and `factor_max`. The default is that of Hairer's dopri5, whose beta is
    P/p = 0.04, with a floor of 0.85. Other coefficients are a filter without a floor unless one is
    given, and `pcoeff=0, icoeff=1` is the integral controller. After a rejected step the next one
    does not grow. Steps stay within `dt_min` and `dt_max`, in units of time: a step of size
    `dt_min` is taken whatever its error, unless it is not finite.

    Source: Söderlind, Digital filters in adaptive time-stepping, ACM TOMS 29 (2003), eq. 31;
    Hairer, Nørsett, Wanner I, eq. II.4.13 for safety and bounds; II, section IV.2 for the default.
    """

    pcoeff: float = _USUAL[0]
    icoeff: float = _USUAL[1]
    dcoeff: float = _USUAL[2]
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    dt_min: float = 0.0
    dt_max: float = math.inf
    floor: float = math.nan
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.safety <= 1 and 0 < self.factor_min < 1 < self.factor_max):
            raise ArgumentError(
                "a controller needs 0 < safety <= 1 and 0 < factor_min < 1 < factor_max; got "
                f"safety={self.safety}, factor_min={self.factor_min}, factor_max={self.factor_max}"
            )
        if math.isnan(self.floor):
            usual = (self.pcoeff, self.icoeff, self.dcoeff) == _USUAL
            object.__setattr__(self, "floor", 0.85 if usual else 0.0)
        if not 0.0 <= self.floor <= 1.0:
            raise ArgumentError(
                "floor is a share of the integral controller's factor, from 0 to 1; got "
                f"{self.floor!r}"
            )
        if not (0.0 <= self.dt_min <= self.dt_max and self.dt_max > 0.0):
            raise ArgumentError(
                f"a controller needs 0 <= dt_min <= dt_max; got {self.dt_min} and {self.dt_max}"
            )

    def init(self) -> PIDMemory:
        """Return the memory at the start: no errors yet, no rejection."""
        return 1.0, 1.0, False

    def judge(self, error: Any, order: int, memory: PIDMemory) -> tuple[Any, Any, PIDMemory]:
        """Return whether a step with this error ratio is accepted, the factor, and the memory.

        A float gives a bool and a float; errors `[B]` give `[B]` tensors.
        """
        if isinstance(error, Tensor):
            verdict, growth, kept = self.judge_numbers(numbers(error), order, memory)
            return tensor(verdict), tensor(growth), kept
        before, earlier, rejected = memory
        accept = error <= 1.0
        if error == 0.0:
            factor = self.factor_max
        elif math.isinf(error):
            factor = self.factor_min
        else:
            wanted = max(self._wanted(error, before, earlier, order), self.integral(error, order))
            factor = min(max(wanted, self.factor_min), self.factor_max)
        if not accept:
            return False, min(factor, self.safety), (before, earlier, True)
        if rejected:
            factor = min(factor, 1.0)
        # An error of zero says nothing about the next one, and has no power.
        return True, factor, (max(error, 1e-4), before, False)

    def judge_numbers(
        self, ratio: Numbers, order: int, memory: PIDMemory
    ) -> tuple[Numbers, Numbers, PIDMemory]:
        """Return what `judge` does, of one error a sample."""
        before, earlier, rejected = memory
        accept = ratio <= 1.0
        # A zero has no power; the least positive number asks for the largest factor all the same.
        error = at_least(ratio, 1e-300)
        factor = self._wanted(error, before, earlier, order)
        factor = larger(factor, self.integral(error, order))
        factor = at_most(at_least(factor, self.factor_min), self.factor_max)
        if rejected is not False:
            factor = choose(accept & rejected, at_most(factor, 1.0), factor)
        kept = at_least(ratio, 1e-4)
        refused = ~accept
        if not maybe(refused):
            return accept, factor, (kept, before, False)
        factor = choose(refused, at_most(factor, self.safety), factor)
        kept, before = choose(accept, kept, before), choose(accept, before, earlier)
        return accept, factor, (kept, before, refused)

    def _wanted(self, error: Any, before: Any, earlier: Any, order: int) -> Any:
        b1, b2, b3 = self._exponents.get(order) or self._exponents_of(order)
        history = error**b1
        if b2:
            history = history * before**b2
        if b3:
            history = history * earlier**b3
        return self.safety / history

    def integral(self, error: Any, order: int) -> Any:
        """Return the least factor for errors above zero, numbers or one number."""
        return self.floor * self.safety * error ** (-1.0 / order)

    def exponents(self, order: int) -> tuple[float, float, float]:
        """Return b1, b2 and b3 for a method of this order."""
        return self._exponents.get(order) or self._exponents_of(order)

    # Needed at every step, and the same at each.
    @cached_property
    def _exponents(self) -> dict[int, tuple[float, float, float]]:
        return {}

    def _exponents_of(self, order: int) -> tuple[float, float, float]:
        exponents = self._exponents[order] = (
            (self.pcoeff + self.icoeff + self.dcoeff) / order,
            -(self.pcoeff + 2 * self.dcoeff) / order,
            self.dcoeff / order,
        )
        return exponents


def first_step(
    field: Callable[[Any, Tensor], Tensor],
    span: tuple[float, float],
    y0: Tensor,
    slope: Tensor,
    order: int,
    tolerance: Tolerance,
) -> float:
    """Return the size of the first step, from one more evaluation of the field.

    `slope` is f(t0, y0). Source: Hairer, Nørsett, Wanner I, section II.4, starting step size.
    """
    t0, t1 = span
    length = abs(t1 - t0)
    with torch.no_grad():
        y0, slope = y0.detach(), slope.detach()
        # One allowance serves all three norms.
        allowed = tolerance.scale(y0, y0)
        d0 = tolerance.root_mean_square(_sizes(y0).div(allowed))
        d1 = tolerance.root_mean_square(_sizes(slope).div(allowed))
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        if not math.isfinite(h0) or h0 <= 0.0:
            return length * 1e-6
        h0 = min(h0, length)
        signed = math.copysign(h0, t1 - t0)
        end = t1 if h0 == length else t0 + signed
        ahead = field(end, torch.add(y0, slope, alpha=signed))
        d2 = tolerance.root_mean_square(_sizes(ahead - slope).div(allowed)) / h0
    largest = max(d1, d2)
    if not math.isfinite(largest):
        return h0 * 1e-3
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / order)
    return min(100 * h0, h1, length)


def _sizes(x: Tensor) -> Tensor:
    # Their squares are what counts, so the sign of real ones may stay.
    return x.abs() if x.is_complex() else x


def first_steps(
    field: Callable[[Any, Tensor], Tensor],
    span: tuple[Tensor, Tensor],
    y0: Tensor,
    slope: Tensor,
    order: int,
    tolerance: Tolerance,
) -> Tensor:
    """Return the `[B]` sizes of first steps over spans of two `[B]` times, as `first_step` does."""
    t0, t1 = numbers(span[0]), numbers(span[1])
    length = abs(t1 - t0)
    # What overflows, or is no number, is replaced.
    with torch.no_grad(), unwarned():
        y0, slope = y0.detach(), slope.detach()
        # One allowance serves all three norms.
        allowed = tolerance.scale(y0, y0)
        d0, d1 = _norms(y0, allowed, tolerance), _norms(slope, allowed, tolerance)
        h0 = choose((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        usable = (h0 > 0.0) & (h0 < math.inf)
        h0 = smaller(choose(usable, h0, length * 1e-6), length)
        signed = choose(t1 >= t0, h0, -h0)
        ends = tensor(choose(h0 == length, t1, t0 + signed))
        ahead = field(ends, torch.addcmul(y0, slope, along(tensor(signed), y0)))
        largest = larger(d1, _norms(ahead - slope, allowed, tolerance) / h0)
        h1 = (0.01 / largest) ** (1 / order)
        h1 = choose(largest <= 1e-15, at_least(h0 * 1e-3, 1e-6), h1)
        h1 = choose(largest < math.inf, smaller(100 * h0, h1), h0 * 1e-3)
        return tensor(choose(usable, smaller(h1, length), h0))


def _norms(x: Tensor, allowed: Tensor, tolerance: Tolerance) -> Numbers:
    norms: Any = tolerance.root_mean_square(_sizes(x).div(allowed))
    return numbers(norms)
