"""Methods of mechanics: the two-step midpoint rule for any f, and velocity Verlet for pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core import ArgumentError, Step
from ode_core.transforms import hidden
from ode_solvers.reversible import size, unless_still

if TYPE_CHECKING:
    from ode_core import Tolerance
    from ode_core.protocols import VectorField


@dataclass(frozen=True)
class Leapfrog:
    """The two-step midpoint rule, y_(n+1) = y_(n-1) + 2 dt f(t_n, y_n): order 2, one evaluation.

    Between unequal steps it is the parabola through y_(n-1) and y_n with the slope f(t_n, y_n),
    which keeps order 2. The first step is the midpoint rule, with one evaluation more. The carry is
    `(y_(n-1), gap)` with the signed size of the step before as float64, `[]` or `[B]`; a gap of 0
    says that there is none. Motion that goes on keeps its energy; where f damps the state, a
    parasitic solution grows as the state decays.

    Source: Hairer, Nørsett, Wanner I, eq. III.1.13'; Hairer, Lubich, Wanner, Geometric Numerical
    Integration, section XV.3.
    """

    name: str = field(default="leapfrog", init=False)
    order: int = field(default=2, init=False)
    adaptive: bool = field(default=False, init=False)
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)
    per_sample: bool = field(default=True, init=False)
    compiles: bool = field(default=False, init=False)
    moving_times: bool = field(default=True, init=False)

    def init(self, field: VectorField, t: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the carry of a first step."""
        del field
        return y.clone(), torch.zeros_like(t) if isinstance(t, Tensor) else _host(0.0)

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor, Tensor],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1."""
        del tolerance
        before, gap = carry
        slope, h = field(t0, y), size(t0, t1, y)
        step = t1 - t0
        if not isinstance(step, Tensor):
            last = gap.item()
            after = _midpoint(field, t0, t1, y, slope) if last == 0.0 else None
            y1 = _parabola(y, slope, before, h, last) if after is None else after
            return Step(y1, None, (y, _host(step)), None)
        first = gap == 0.0
        y1 = _parabola(y, slope, before, h, size(0.0, torch.where(first, 1.0, gap), y))
        if bool((first & (step != 0.0)).any()):
            started = _midpoint(field, t0, t1, y, slope)
            y1 = started.where(first.view(first.shape + (1,) * (y.dim() - first.dim())), y1)
        kept = unless_still(t0, t1, before, y), unless_still(t0, t1, gap, step)
        return Step(unless_still(t0, t1, y, y1), None, kept, None)


def _host(number: float) -> Tensor:
    """Return a number as a 0-d float64 tensor on the host, where shared steps read it."""
    return torch.scalar_tensor(number, dtype=torch.float64, device="cpu")


def _midpoint(field: VectorField, t0: Any, t1: Any, y: Tensor, slope: Tensor) -> Tensor:
    h = size(t0, t1, y)
    y1: Tensor = y + h * field(t0 + 0.5 * (t1 - t0), y + (0.5 * h) * slope)
    return y1


def _parabola(y: Tensor, slope: Tensor, before: Tensor, h: Any, gap: Any) -> Tensor:
    ratio = h / gap
    y1: Tensor = y + (h * (1.0 + ratio)) * slope + (ratio * ratio) * (before - y)
    return y1


@dataclass(frozen=True)
class VelocityVerlet:
    """Velocity Verlet for q'' = a(t, q), as a pair (q, v): order 2, symplectic, one evaluation.

    The state is a pair of equal parts, `f(t, (q, v))` returns `(v, a)`; packed, q is the first half
    of `[N]`, or of `[B, F]` with per-sample steps. The carry is `(a,)`, half a state. An `a` that
    depends on v keeps order 2, by a velocity extrapolated to the end, but energy is then not kept.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration, section I.1.4.
    """

    name: str = field(default="velocity_verlet", init=False)
    order: int = field(default=2, init=False)
    adaptive: bool = field(default=False, init=False)
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)
    per_sample: bool = field(default=True, init=False)
    takes_pairs: bool = field(default=True, init=False)
    moving_times: bool = field(default=True, init=False)

    def init(self, field: VectorField, t: Any, y: Tensor) -> tuple[Tensor]:
        """Return the carry, the acceleration at the start.

        Raises ArgumentError where the state is no pair of equal parts, or f's first part is not v.
        """
        flat = 2 if isinstance(t, Tensor) and t.dim() else 1
        if y.dim() != flat or y.shape[-1] % 2:
            raise ArgumentError(
                "velocity_verlet takes a state (q, v), two tensors of one shape; got a state that "
                f"packs as {tuple(y.shape)}; pass y0=(q, v)"
            )
        _, v = y.chunk(2, -1)
        moved, a = field(t, y).chunk(2, -1)
        if not hidden(v) and not torch.equal(moved, v):
            raise ArgumentError(
                "velocity_verlet takes f(t, (q, v)) that returns (v, a), but the first part of "
                "what f returned is not v; write the problem in positions and velocities, or take "
                "another solver"
            )
        return (a,)

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1: half a kick, a drift, half a kick."""
        del tolerance
        (a,) = carry
        q, v = y.chunk(2, -1)
        h = size(t0, t1, y)
        half = v + (0.5 * h) * a
        q1 = q + h * half
        _, a1 = field(t1, torch.cat((q1, v + h * a), -1)).chunk(2, -1)
        return Step(torch.cat((q1, half + (0.5 * h) * a1), -1), None, (a1,), None)
