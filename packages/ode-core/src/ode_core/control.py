"""Step-size control: the scaled norm of an error, controllers, and the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from ode_core.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Norm = Callable[[Tensor], float]

NORM = "root mean square of error / (atol + rtol max(|y0|, |y1|))"


@dataclass(frozen=True, eq=False)
class Tolerance:
    """What error is allowed: `atol + rtol max(|y0|, |y1|)` for each entry of the state.

    `rtol` and `atol` are numbers or tensors that broadcast to the state. `segments` are sizes that
    add up to those of a flat state: the norm is then the largest of the segments' norms, so that a
    long segment cannot hide a short one.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, eq. II.4.10-4.11.
    """

    rtol: float | Tensor
    atol: float | Tensor
    segments: tuple[int, ...] = ()

    def norm(self, error: Tensor, y0: Tensor, y1: Tensor) -> float:
        """Return the scaled norm of an error estimate, infinite where it or `y1` is not finite.

        `error`, `y0` and `y1` have the state's shape and dtype. One value is read from the device.
        """
        if error.numel() == 0:
            return 0.0
        with torch.no_grad():
            # A bounded error beside an infinite state would be accepted: 0 times y1 is NaN there.
            ratio = torch.add(_wide(error), _wide(y1), alpha=0.0)
            return self.root_mean_square(ratio.abs().div_(self.scale(y0, y1)))

    def scale(self, y0: Tensor, y1: Tensor) -> Tensor:
        """Return the allowed error of each entry, real, like the state, in fresh memory."""
        return torch.maximum(_wide(y0).abs(), _wide(y1).abs()).mul_(self.rtol).add_(self.atol)

    def root_mean_square(self, ratio: Tensor) -> float:
        """Return the root mean square of scaled errors, or the largest one of the segments."""
        if not self.segments:
            return finite(_sum_of_squares(ratio).item() / ratio.numel())
        parts = ratio.split(self.segments)
        means = [_sum_of_squares(part) / part.numel() for part in parts if part.numel()]
        return finite(torch.stack(means).max().item())


def finite(mean_square: float) -> float:
    """Return the root of a mean of squares, infinite where it is NaN."""
    return math.sqrt(mean_square) if mean_square >= 0.0 else math.inf


def _sum_of_squares(ratio: Tensor) -> Tensor:
    # A dot product is one pass and one kernel; it wants one stride.
    if ratio.is_contiguous():
        flat = ratio.view(-1)
        return torch.dot(flat, flat)
    return ratio.square().sum()


def _wide(x: Tensor) -> Tensor:
    # 16 bits are too few to accumulate in.
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


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


PIDMemory = tuple[float, float, bool]


@dataclass(frozen=True)
class PIDController:
    """The step size from this error (I), the one before (P) and the one before that (D).

    With error ratios e, e', e'' and the method's order p, the factor is
    `safety * e^-b1 * e'^-b2 * e''^-b3`, where b1 = (P + I + D)/p, b2 = -(P + 2D)/p and b3 = D/p,
    kept within `factor_min` and `factor_max`. The default is the integral controller; after a
    rejected step the next one does not grow.

    Source: Söderlind, Digital filters in adaptive time-stepping, ACM TOMS 29 (2003), eq. 31;
    Hairer, Nørsett, Wanner I, eq. II.4.13 for safety and bounds.
    """

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0

    def __post_init__(self) -> None:
        if not (0 < self.safety <= 1 and 0 < self.factor_min < 1 < self.factor_max):
            raise ArgumentError(
                "a controller needs 0 < safety <= 1 and 0 < factor_min < 1 < factor_max; got "
                f"safety={self.safety}, factor_min={self.factor_min}, factor_max={self.factor_max}"
            )

    def init(self) -> PIDMemory:
        """Return the memory at the start: no errors yet, no rejection."""
        return 1.0, 1.0, False

    def judge(self, error: float, order: int, memory: PIDMemory) -> tuple[bool, float, PIDMemory]:
        """Return whether a step with this error ratio is accepted, the factor, and the memory."""
        before, earlier, rejected = memory
        accept = error <= 1.0
        if error == 0.0:
            factor = self.factor_max
        elif math.isinf(error):
            factor = self.factor_min
        else:
            exponents = self._exponents(order)
            history = error ** exponents[0] * before ** exponents[1] * earlier ** exponents[2]
            factor = min(max(self.safety / history, self.factor_min), self.factor_max)
        if not accept:
            return False, min(factor, self.safety), (before, earlier, True)
        if rejected:
            factor = min(factor, 1.0)
        # An error of zero says nothing about the next one, and has no power.
        return True, factor, (max(error, 1e-10), before, False)

    def _exponents(self, order: int) -> tuple[float, float, float]:
        return (
            (self.pcoeff + self.icoeff + self.dcoeff) / order,
            -(self.pcoeff + 2 * self.dcoeff) / order,
            self.dcoeff / order,
        )


def first_step(
    field: Callable[[float, Tensor], Tensor],
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
        d0 = tolerance.norm(y0, y0, y0)
        d1 = tolerance.norm(slope, y0, y0)
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        if not math.isfinite(h0) or h0 <= 0.0:
            return length * 1e-6
        h0 = min(h0, length)
        signed = math.copysign(h0, t1 - t0)
        end = t1 if h0 == length else t0 + signed
        ahead = field(end, torch.add(y0, slope, alpha=signed))
        d2 = tolerance.norm(ahead - slope, y0, y0) / h0
    largest = max(d1, d2)
    if not math.isfinite(largest):
        return h0 * 1e-3
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / order)
    return min(100 * h0, h1, length)
