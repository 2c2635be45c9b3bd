"""Reversible methods: each step can be taken back, and carries a second copy of the motion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core import Step
from ode_core.replay import recorded
from ode_core.rows import along

if TYPE_CHECKING:
    from ode_core import Tolerance
    from ode_core.protocols import VectorField

Span = tuple[float, float]
"""The times at both ends of a step."""

Point = tuple[Tensor, tuple[Tensor, ...]]
"""A state and the carry there, or their gradients."""

Pull = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`pull(value, y, grad)`: a leaf's gradient from that of a value that `recorded` gave with it."""


@dataclass(frozen=True)
class AsynchronousLeapfrog:
    """The asynchronous leapfrog: order 2, one evaluation a step.

    The carry is `(v,)`, like the state: a velocity of its own, equal to f at the start and within
    O(dt^2) of it after that. Where f damps the state, the difference of the two grows as the state
    decays: it is a method for motion that goes on, and has no error estimate for that reason.

    Source: Zhuang et al., MALI: A memory efficient and reverse accurate integrator for neural ODEs,
    ICLR 2021, algorithms 2 and 3; Mutze, arXiv:1311.6602.
    """

    name: str = field(default="alf", init=False)
    order: int = field(default=2, init=False)
    adaptive: bool = field(default=False, init=False)
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)
    per_sample: bool = field(default=True, init=False)
    moving_times: bool = field(default=True, init=False)

    def init(self, field: VectorField, t: Any, y: Tensor) -> tuple[Tensor]:
        """Return the carry: the velocity, which is f at the start."""
        return (field(t, y),)

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1: half a step with v, v mirrored at f, half a step with it."""
        del tolerance
        (v,) = carry
        h = size(t0, t1, y)
        slope = field(t0 + 0.5 * (t1 - t0), moved(y, 0.5 * h, v))
        after = 2.0 * slope - v
        return Step(moved(y, h, slope), None, (unless_still(t0, t1, v, after),), None)

    def reverse(
        self, field: VectorField, t0: Any, t1: Any, y1: Tensor, carry1: tuple[Tensor]
    ) -> tuple[Tensor, tuple[Tensor]]:
        """Return the state and the carry at t0 of the step that led to those at t1."""
        (v,) = carry1
        h = size(t0, t1, y1)
        slope = field(t0 + 0.5 * (t1 - t0), moved(y1, -0.5 * h, v))
        return moved(y1, -h, slope), (unless_still(t0, t1, v, 2.0 * slope - v),)

    def pull_back(
        self, field: VectorField, span: Span, end: Point, grads: Point, pull: Pull
    ) -> tuple[Point, Point]:
        """Return the state and the carry at t0, and their gradients, from those at t1."""
        (y1, (v,)), h = end, span[1] - span[0]
        slope, pulled = self._pulled(field, span, moved(y1, -0.5 * h, v), grads, pull)
        return (moved(y1, -h, slope), (2.0 * slope - v,)), pulled

    def pull_step(
        self, field: VectorField, span: Span, start: Point, y1: Tensor, grads: Point, pull: Pull
    ) -> Point:
        """Return the gradients of the state and the carry at t0 from those at t1."""
        del y1
        (y, (v,)), h = start, span[1] - span[0]
        return self._pulled(field, span, moved(y, 0.5 * h, v), grads, pull)[1]

    def _pulled(
        self, field: VectorField, span: Span, middle: Tensor, grads: Point, pull: Pull
    ) -> tuple[Tensor, Point]:
        (gy, (gv,)), h = grads, span[1] - span[0]
        slope, middle = recorded(partial(field, span[0] + 0.5 * h), middle)
        gm = pull(slope, middle, moved(2.0 * gv, h, gy))
        return slope.detach(), (gy + gm, (moved(-gv, 0.5 * h, gm),))


@dataclass(frozen=True)
class ReversibleHeun:
    """The reversible Heun method: order 2, one evaluation a step.

    The carry is `(z, f(t, z))`, both like the state: a second solution by the two-step midpoint
    rule, at which alone f is evaluated. Where f damps the state the two solutions part, so that
    there is no error estimate.

    Source: Kidger, Foster, Li, Lyons, Efficient and accurate gradients for neural SDEs, NeurIPS
    2021, algorithms 1 and 2.
    """

    name: str = field(default="reversible_heun", init=False)
    order: int = field(default=2, init=False)
    adaptive: bool = field(default=False, init=False)
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)
    per_sample: bool = field(default=True, init=False)
    moving_times: bool = field(default=True, init=False)

    def init(self, field: VectorField, t: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the carry: the second solution starts where the first does."""
        return y.clone(), field(t, y)

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor, Tensor],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1 by the trapezoidal rule over slopes of the second solution."""
        del tolerance
        z, slope = carry
        h = size(t0, t1, y)
        z1 = unless_still(t0, t1, z, moved(2.0 * y - z, h, slope))
        slope1 = field(t1, z1)
        return Step(moved(y, 0.5 * h, slope + slope1), None, (z1, slope1), None)

    def reverse(
        self, field: VectorField, t0: Any, t1: Any, y1: Tensor, carry1: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the state and the carry at t0 of the step that led to those at t1."""
        step = self.step(field, t1, t0, y1, carry1, None)
        return step.y, step.carry

    def pull_back(
        self, field: VectorField, span: Span, end: Point, grads: Point, pull: Pull
    ) -> tuple[Point, Point]:
        """Return the state and the carry at t0, and their gradients, from those at t1.

        The slope in the carry has its graph, which the step before goes on with.
        """
        (y1, (z1, slope1)), h = end, span[1] - span[0]
        known = (z1, slope1) if slope1.requires_grad else None
        pulled = self._pulled(field, span, z1, grads, pull, known)
        slope, z = recorded(partial(field, span[0]), moved(2.0 * y1 - z1, -h, slope1))
        return (moved(y1, -0.5 * h, slope + slope1), (z, slope)), pulled

    def pull_step(
        self, field: VectorField, span: Span, start: Point, y1: Tensor, grads: Point, pull: Pull
    ) -> Point:
        """Return the gradients of the state and the carry at t0 from those at t1."""
        del y1
        (y, (z, slope)), h = start, span[1] - span[0]
        return self._pulled(field, span, moved(2.0 * y - z, h, slope), grads, pull)

    def _pulled(
        self,
        field: VectorField,
        span: Span,
        z1: Tensor,
        grads: Point,
        pull: Pull,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Point:
        """Return the gradients at t0; `known` is z1 as a leaf, and the slope with its graph."""
        (gy, (gz, gs)), h = grads, span[1] - span[0]
        leaf, slope = known or reversed(recorded(partial(field, span[1]), z1))
        gz = gz + pull(slope, leaf, moved(gs, 0.5 * h, gy))
        return moved(gy, 2.0, gz), (-gz, moved(0.5 * h * gy, h, gz))


def size(t0: Any, t1: Any, y: Tensor) -> Any:
    """Return t1 - t0 as what scales a state: a number, or one a sample as `[B, 1, ...]`."""
    h = t1 - t0
    return along(h, y) if isinstance(h, Tensor) else h


def moved(y: Tensor, h: Any, slope: Tensor) -> Tensor:
    """Return y + h slope, in one operation; h as `size` returns it."""
    if isinstance(h, Tensor):
        return torch.addcmul(y, h, slope) if h.dtype == y.dtype else y + h * slope
    return torch.add(y, slope, alpha=h)


def unless_still(t0: Any, t1: Any, before: Tensor, after: Tensor) -> Tensor:
    """Return `after`, but `before` in the rows of samples whose step has no length."""
    h = t1 - t0
    if not isinstance(h, Tensor):
        return after
    moves = (h != 0.0).view(h.shape + (1,) * (after.dim() - h.dim()))
    return after.where(moves, before)
