"""The parameters' gradient as a sum over the steps of a backward solve, outside of its state.

Nothing in the backward solve depends on it, so that no stage needs a copy of it: what a step adds
is summed up as its stages are evaluated, or at nodes of its continuous output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ode_core import Step
from ode_core.interpolation import interpolant
from ode_solvers.explicit import RungeKutta, damped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import Solver, Tolerance
    from ode_core.protocols import Carry, Interpolant
    from ode_solvers.gradients.augmented import Augmented, Pulled

    Sums = list[Tensor]

# Nodes on [0, 1] and weights of Gauss's rules, by the order that they suffice for.
GAUSS = (
    (2, ((0.5, 1.0),)),
    (4, tuple((0.5 + s * math.sqrt(1 / 12), 0.5) for s in (-1, 1))),
    (99, tuple((0.5 + s * math.sqrt(0.15), w) for s, w in ((-1, 5 / 18), (0, 4 / 9), (1, 5 / 18)))),
)
# Kronrod's five nodes around Gauss's two: node, weight, and weight minus Gauss's.
# Laurie, Mathematics of Computation 66 (1997): the outer nodes are sqrt(6/7) / 2 from the middle.
_INNER, _OUTER = math.sqrt(1 / 12), math.sqrt(6 / 7) / 2
KRONROD = (
    (0.5 - _OUTER, 49 / 495, 49 / 495),
    (0.5 - _INNER, 27 / 110, 27 / 110 - 0.5),
    (0.5, 14 / 45, 14 / 45),
    (0.5 + _INNER, 27 / 110, 27 / 110 - 0.5),
    (0.5 + _OUTER, 49 / 495, 49 / 495),
)


class Totals:
    """The parameters' gradients so far, each in a dtype that holds both it and the state."""

    def __init__(
        self, parameters: tuple[Tensor, ...], state: Tensor, tolerance: Tolerance | None
    ) -> None:
        self.parameters = parameters
        # None where the error of the sums takes no part in the choice of steps.
        self.tolerance = tolerance
        real = state.dtype.to_real()
        self._sums = [torch.zeros_like(p, dtype=_wide(p.dtype, real)) for p in parameters]

    def zeros(self) -> Sums:
        """Return sums of nothing."""
        return [torch.zeros_like(total) for total in self._sums]

    def add(self, sums: Sums | None) -> None:
        """Add what an accepted step adds."""
        if sums:
            torch._foreach_add_(self._sums, sums)

    def gradients(self) -> list[Tensor]:
        """Return the gradients in the parameters' dtypes."""
        return [s.to(p.dtype) for s, p in zip(self._sums, self.parameters, strict=True)]

    def norms(self, sums: Sums, errors: Sequence[Sums]) -> tuple[float, ...]:
        """Return the scaled norms of errors of a step that would add `sums`."""
        if self.tolerance is None or not self._sums:
            return ()
        rtol, atol = (_middle(x) for x in (self.tolerance.rtol, self.tolerance.atol))
        scale = list(torch._foreach_abs(torch._foreach_add(self._sums, sums)))
        torch._foreach_maximum_(scale, torch._foreach_abs(self._sums))
        torch._foreach_mul_(scale, rtol)
        torch._foreach_add_(scale, atol)
        count = sum(x.numel() for x in scale)
        found = []
        for error in errors:
            ratios = list(torch._foreach_abs(error))
            torch._foreach_div_(ratios, scale)
            squares = torch.stack([x.double() for x in torch._foreach_norm(ratios)]).square().sum()
            mean = squares.item() / count
            found.append(math.sqrt(mean) if mean >= 0.0 else math.inf)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class ByStages:
    """An explicit method whose steps also sum up the parameters' gradient with its own weights.

    `field` is the Augmented system everywhere. What a step adds is the second entry of its `dense`.
    The carry has the slopes' part of it that
    the next step's first stage shares with this one's end.
    """

    inner: RungeKutta
    totals: Totals
    implicit: bool = False
    one_step: bool = True

    @property
    def name(self) -> str:
        """The method's name."""
        return self.inner.name

    @property
    def order(self) -> int:
        """The method's order."""
        return self.inner.order

    @property
    def adaptive(self) -> bool:
        """Whether the method has an error estimate."""
        return self.inner.adaptive

    def init(self, field: Any, t: Any, y: Tensor) -> Carry:
        """Return the method's carry and what its slope says about the parameters."""
        stages = _Stages(field, self, 0.0, None, starting=True)
        return self.inner.init(stages, t, y), stages.latest

    def slope(self, carry: Carry) -> Tensor | None:
        """Return the slope at the start where the carry holds it."""
        return self.inner.slope(carry[0])

    def step(
        self,
        field: Any,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance the state; the error is the larger one of the state's and the sums'."""
        kept, first = carry
        stages = _Stages(field, self, t1 - t0, first if kept else None, starting=False)
        step = self.inner.step(stages, t0, t1, y, kept, tolerance)
        error = step.error
        if tolerance is not None and error is not None and error <= 1.0 and len(stages.sums) > 1:
            norms = self.totals.norms(stages.sums[0], stages.sums[1:])
            error = max(float(error), damped(norms)) if norms else error
        return Step(step.y, error, (step.carry, stages.latest), (step.dense, stages.sums[0]))

    def interpolant(self, field: Any, t0: Any, t1: Any, y0: Tensor, step: Step) -> Interpolant:
        """Return the method's own continuous output."""
        return self.inner.interpolant(field, t0, t1, y0, step._replace(dense=step.dense[0]))


class _Stages:
    """A field for one step, whose calls come in the order of the stages."""

    def __init__(
        self, field: Augmented, method: ByStages, dt: float, first: Pulled | None, *, starting: bool
    ) -> None:
        table, totals = method.inner.tableau, method.totals
        self._field, self._dt, self._totals = field, dt, totals
        self._starting = starting
        rows = [table.b] + [e for e in (table.b_error, table.b_error_low) if e is not None]
        self._rows = rows if totals.tolerance is not None and not starting else rows[:1]
        self.sums: list[Sums] = [] if starting else [totals.zeros() for _ in self._rows]
        self._adaptive = method.adaptive
        self._last = table.stages - 1 if table.last_is_solution else table.stages
        self._stage = 0
        self.latest: Pulled | None = None
        if first is not None:
            self._take(first)

    def __call__(self, t: float, state: Tensor) -> Tensor:
        # The end's slope is the next step's first one.
        carried = self._starting or (self._adaptive and self._stage == self._last)
        wanted = carried or any(self._weight(row) for row in self._rows)
        slope, pulled = self._field.slope(t, state, self._totals.parameters if wanted else ())
        if carried:
            self.latest = pulled
        if not self._starting:
            self._take(pulled)
        return slope

    def _weight(self, row: tuple[float, ...]) -> float:
        return row[self._stage] if self._stage < len(row) else 0.0

    def _take(self, pulled: Pulled) -> None:
        for sums, row in zip(self.sums, self._rows, strict=True):
            add(sums, pulled, -self._dt * self._weight(row))
        self._stage += 1


@dataclass(frozen=True, eq=False)
class ByNodes:
    """Any method whose steps also sum up the parameters' gradient, at nodes of their output.

    Gauss's nodes, or Kronrod's five around two of them where the sums' error is asked for.
    """

    inner: Solver
    totals: Totals

    @property
    def name(self) -> str:
        """The method's name."""
        return self.inner.name

    @property
    def order(self) -> int:
        """The method's order."""
        return self.inner.order

    @property
    def adaptive(self) -> bool:
        """Whether the method has an error estimate."""
        return self.inner.adaptive

    @property
    def implicit(self) -> bool:
        """Whether the method solves equations."""
        return self.inner.implicit

    @property
    def one_step(self) -> bool:
        """Whether the method can be started from a state alone."""
        return self.inner.one_step

    def init(self, field: Any, t: Any, y: Tensor) -> Carry:
        """Return the method's carry."""
        return self.inner.init(field, t, y)

    def slope(self, carry: Carry) -> Tensor | None:
        """Return the slope at the start where the carry holds it."""
        own = getattr(self.inner, "slope", None)
        slope: Tensor | None = None if own is None else own(carry)
        return slope

    def step(
        self,
        field: Any,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance the state; the error is the larger one of the state's and the sums'."""
        step = self.inner.step(field, t0, t1, y, carry, tolerance)
        if step.error is not None and not float(step.error) <= 1.0:
            return step._replace(dense=(step.dense, None))
        at = interpolant(self.inner, field, (t0, t1), y, step)
        controlled = tolerance is not None and self.totals.tolerance is not None
        nodes = KRONROD if controlled else [(c, w, 0.0) for c, w in self._nodes()]
        sums, errors = self.totals.zeros(), self.totals.zeros() if controlled else []
        dt = t1 - t0
        for node, weight, difference in nodes:
            _, pulled = field.slope(t0 + node * dt, at(node), self.totals.parameters)
            add(sums, pulled, -dt * weight)
            if controlled:
                add(errors, pulled, -dt * difference)
        error = step.error
        if controlled and error is not None:
            error = max(float(error), *self.totals.norms(sums, [errors]))
        return step._replace(error=error, dense=(step.dense, sums))

    def interpolant(self, field: Any, t0: Any, t1: Any, y0: Tensor, step: Step) -> Interpolant:
        """Return the method's own continuous output."""
        return interpolant(self.inner, field, (t0, t1), y0, step._replace(dense=step.dense[0]))

    def _nodes(self) -> tuple[tuple[float, float], ...]:
        return next(rule for order, rule in GAUSS if self.inner.order <= order)


def summing(solver: Solver, totals: Totals) -> ByStages | ByNodes:
    """Return a solver of the augmented system that also sums up the parameters' gradient."""
    return ByStages(solver, totals) if isinstance(solver, RungeKutta) else ByNodes(solver, totals)


def add(sums: Sums, pulled: Pulled, weight: float) -> None:
    """Add what an evaluation says, None where it says nothing."""
    pairs = [(s, g) for s, g in zip(sums, pulled, strict=False) if g is not None]
    if pairs and weight != 0.0:
        torch._foreach_add_([s for s, _ in pairs], [g for _, g in pairs], alpha=weight)


def _wide(dtype: torch.dtype, real: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, real)


def _middle(value: float | Tensor) -> float:
    return value if not isinstance(value, torch.Tensor) else float(value.median())
