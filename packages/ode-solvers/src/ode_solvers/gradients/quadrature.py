"""The parameters' gradient as a sum over the steps of a backward solve, outside of its state.

Nothing in the backward solve depends on it, so that no stage needs a copy of it: what a step adds
is summed up at nodes of its continuous output, where a method has no stages to do it by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ode_core.interpolation import interpolant

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core import Solver, Step, Tolerance
    from ode_core.protocols import Carry, Interpolant
    from ode_solvers.gradients.totals import Totals

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


@dataclass(frozen=True, eq=False)
class ByNodes:
    """Any method whose steps also sum up the parameters' gradient, at nodes of their output.

    Gauss's nodes, or Kronrod's five around two of them where the sums' error is asked for. Steps no
    longer than `least` may be taken whatever their error.
    """

    inner: Solver
    totals: Totals
    least: float

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
        if step.error is not None and not float(step.error) <= 1.0 and abs(t1 - t0) > self.least:
            return step
        at = interpolant(self.inner, field, (t0, t1), y, step)
        controlled = tolerance is not None and self.totals.controlled
        nodes = KRONROD if controlled else [(c, w, 0.0) for c, w in self._nodes()]
        self.totals.begin(2 if controlled else 1)
        dt = t1 - t0
        for node, weight, difference in nodes:
            _, pulled = field.slope(t0 + node * dt, at(node), self.totals.parameters)
            weights = (-dt * weight, -dt * difference) if controlled else (-dt * weight,)
            self.totals.take(pulled, weights)
        error = step.error
        if controlled and error is not None:
            error = max(float(error), *self.totals.norms())
        return step._replace(error=error)

    def interpolant(self, field: Any, t0: Any, t1: Any, y0: Tensor, step: Step) -> Interpolant:
        """Return the method's own continuous output."""
        return interpolant(self.inner, field, (t0, t1), y0, step)

    def _nodes(self) -> tuple[tuple[float, float], ...]:
        return next(rule for order, rule in GAUSS if self.inner.order <= order)
