"""An explicit method on a state and its adjoint, which sums up the parameters' gradient too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from ode_core import Step
from ode_core.solution import State
from ode_solvers.explicit import damped
from ode_solvers.kernels.choose import for_state

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core import Tolerance
    from ode_core.protocols import Interpolant
    from ode_solvers.explicit import RungeKutta
    from ode_solvers.gradients.pair import Halves, Pair, Slopes
    from ode_solvers.gradients.totals import Totals
    from ode_solvers.kernels.contract import Kernel
    from ode_solvers.tableau import Row

# A first step that is rejected costs more than one that is somewhat too short. What is not known
# better than a step's tenth is left to the control.
_MARGIN, _SHORTEST = 2.0, 0.1
_EULER: Row = ((0, 1.0),)


@dataclass(frozen=True, eq=False)
class ByStages:
    """An explicit method whose steps also sum up the parameters' gradient with its own weights.

    `field` is a `Pair` everywhere and a state one of its own; both halves go through the method's
    kernel as they are. No stage that has no weight in the sums is asked for its part of them. The
    carry of an adaptive method are the slopes at the start of the step; none are made at `stops`,
    from where the solve does not go on or starts anew. `within` is the tolerance of each half;
    steps no longer than `least` may be taken whatever their error.
    """

    inner: RungeKutta
    totals: Totals
    within: Tolerance | None
    least: float
    stops: frozenset[float]
    implicit: bool = False
    # What `begin` has evaluated is the carry of the first step.
    one_step: bool = False

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

    def init(self, field: Any, t: Any, y: Tensor) -> tuple[Slopes, ...]:
        """Return the slopes at the start for an adaptive method."""
        return (field.slopes(t, field.halves(y), wanted=True),) if self.adaptive else ()

    def begin(self, field: Pair, t: float, y: Tensor, dt: float) -> State:
        """Return where the loop is to start: with a step of the forward solve's size `dt`.

        It is shortened where the adjoint or the sums change more within it, in tolerances, than the
        state does: errors fall with the power `order` of the step. A sum's integrand is a product
        of both and moves at twice their pace.
        """
        (slopes,) = carry = self.init(field, t, y)
        half, a = field.halves(y)
        changes = [self._change(a, slopes.a, dt)]
        if self.totals.controlled:
            self.totals.begin(2)
            self.totals.take(slopes.pulled, (dt, dt))
            changes.append(2.0 ** (self.order - 1) * self.totals.norms()[0])
        own = self._change(field.state(t, half), slopes.y, dt)
        largest = _MARGIN * max(changes)
        part = (own / largest) ** (1.0 / self.order) if own < largest else 1.0
        return State(y, t, dt * max(part, _SHORTEST), carry)

    def _change(self, x: Tensor, slope: Tensor, dt: float) -> float:
        """Return the scaled norm of what a step of Euler's method would add."""
        kernel, row = self.kernel(x), ((0, 1.0),)
        assert self.within is not None  # the size of given steps is no question
        _, norms = kernel.finish(x, None, kernel.prepare(dt, x), row, (row,), (slope,), self.within)
        norm: float = norms[0]
        return norm

    def kernel(self, half: Tensor) -> Kernel:
        """Return the kernel that both halves go through."""
        kernel = self.inner.kernel
        assert not isinstance(kernel, str)  # names have been looked up
        return for_state(half) if kernel is None else kernel

    @cached_property
    def weights(self) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """What each stage adds to the sums' rows: without, and with those of their errors."""
        table = self.inner.tableau
        errors = [e for e in (table.b_error, table.b_error_low) if e is not None]
        count = len(table.with_end_rows())
        rows = [(*row, *(0.0,) * (count - len(row))) for row in (table.b, *errors)]
        return tuple(zip(rows[0], strict=True)), tuple(zip(*rows, strict=True))

    def step(
        self,
        field: Any,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Slopes, ...],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance the state; the error is the largest one of the halves' and the sums'."""
        table, goes_on = self.inner.tableau, self.adaptive and t1 not in self.stops
        chosen = self.adaptive and tolerance is not None
        stages = _Stages(self, field, t1 - t0, y, controlled=chosen)
        if carry:
            stages.add(carry[0])
        else:
            stages.evaluate(t0, stages.start, carried=False)
        last = table.stages if table.last_is_solution else table.stages + 1
        halves = stages.start
        for stage, (row, node) in enumerate(zip(table.stage_rows, table.c[1:], strict=True), 2):
            halves = stages.combine(row)
            if stage == last and not goes_on and not chosen:
                break
            # The end is t1 itself: t0 + (t1 - t0) may round beyond it.
            t = t1 if node == 1.0 else t0 + node * (t1 - t0)
            stages.evaluate(t, halves, carried=goes_on and stage == last)
        error = None
        if chosen:
            halves, error = stages.finish(halves if table.last_is_solution else None)
        elif not table.last_is_solution:
            halves = stages.combine(table.solution_row)
        accepted = error is None or error <= 1.0 or abs(t1 - t0) <= self.least
        if goes_on and accepted and not table.last_is_solution:
            stages.evaluate(t1, halves, carried=True)
        latest = (stages.latest,) if goes_on and accepted else carry
        return Step(field.pack(*halves), error, latest, stages.ys)

    def interpolant(self, field: Pair, t0: float, t1: float, y0: Tensor, step: Step) -> Interpolant:
        """Return the continuous output of y, as a state without its adjoint."""
        inner = Step(step.y[0], None, (), tuple(step.dense))
        at = self.inner.interpolant(field.field, t0, t1, y0[0], inner)
        return lambda theta: at(theta).unsqueeze(0)


class _Stages:
    """The slopes of one step, seen one after the other, and what they add up to."""

    def __init__(
        self, method: ByStages, field: Pair, dt: float, state: Tensor, *, controlled: bool
    ) -> None:
        table = method.inner.tableau
        self._table, self._field, self._method = table, field, method
        self._dt = dt
        self.start = field.halves(state)
        _, a = self.start
        self._kernel = method.kernel(a)
        # a' = -a df/dy: what is pulled back goes the other way.
        self._steps = self._kernel.prepare(dt, a), self._kernel.prepare(-dt, a)
        self._weights = method.weights[controlled and method.totals.controlled]
        self.ys: list[Tensor] = []
        self._as: list[Tensor] = []
        self.latest: Slopes | None = None
        method.totals.begin(len(self._weights[0]))

    def evaluate(self, t: float, halves: Halves, *, carried: bool) -> None:
        """Evaluate the field, for the sums as far as they or, `carried`, the next step need it."""
        wanted = carried or any(self._weights[len(self._as)])
        self.add(self._field.slopes(t, halves, wanted=wanted))

    def add(self, slopes: Slopes) -> None:
        """Take in the next stage's slopes."""
        weights = [-self._dt * weight for weight in self._weights[len(self._as)]]
        self._method.totals.take(slopes.pulled, weights)
        if self.start[0] is not None:
            self.ys.append(slopes.y)
        self._as.append(slopes.a)
        self.latest = slopes

    def combine(self, row: Row) -> Halves:
        """Return the halves at a stage."""
        (y, a), (ahead, back), kernel = self.start, self._steps, self._kernel
        moved = None if y is None else kernel.combine(y, ahead, row, self.ys)
        return moved, kernel.combine(a, back, row, self._as)

    def finish(self, ends: Halves | None) -> tuple[Halves, float]:
        """Return the new halves, which the last stage may know, and the scaled error."""
        table, within = self._table, self._method.within
        assert within is not None  # steps are chosen
        solution, errors, kernel = table.solution_row, table.error_rows, self._kernel
        (y, a), (ahead, back) = self.start, self._steps
        y1, a1 = (None, None) if ends is None else ends
        a1, norms = kernel.finish(a, a1, back, solution, errors, self._as, within)
        found = [norms]
        if y is not None:
            y1, norms = kernel.finish(y, y1, ahead, solution, errors, self.ys, within)
            found.append(norms)
        if self._method.totals.controlled and all(map(math.isfinite, chain.from_iterable(found))):
            found.append(self._method.totals.norms())
        error: float = damped(tuple(max(row) for row in zip(*found, strict=True)))
        return (y1, a1), error
