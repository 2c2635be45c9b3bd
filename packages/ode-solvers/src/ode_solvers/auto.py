"""A solver of two methods: explicit steps where they do, implicit ones where stability asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_core import ArgumentError, Step
from ode_solvers.explicit import RungeKutta
from ode_solvers.implicit.carry import Carry
from ode_solvers.implicit.methods import kvaerno5
from ode_solvers.implicit.stepper import ImplicitRungeKutta
from ode_solvers.methods import dopri5
from ode_solvers.stiffness import LastStages, last_stages

if TYPE_CHECKING:
    from ode_core import Tolerance
    from ode_core.protocols import Interpolant, VectorField

_EXPLICIT, _IMPLICIT = 0.0, 1.0
# So many steps along the boundary of stability, with fewer easy ones between, are no accident.
_STIFF, _EASY = 5, 3
# So many steps that an explicit method could take as well, and how far within its boundary.
_CALM, _WITHIN = 4, 0.5


class Held(NamedTuple):
    """What goes from step to step.

    `slope` is f at the start, like the state; `blank` and `implicit` are the implicit method's
    carries, as it starts and as it is; `counts` is `[3]` float64 on the CPU: the method in charge,
    steps that speak for the other, and steps in between that do not.
    """

    slope: Tensor
    blank: Carry
    implicit: Carry
    counts: Tensor


class Taken(NamedTuple):
    """A step's slopes, and whether they are the implicit method's."""

    implicit: bool
    slopes: Any


@dataclass(frozen=True)
class Auto:
    """A stepper that switches between an explicit and an implicit method.

    It starts with the explicit one. That hands over when five of its steps, and as many more as a
    Jacobian costs, ran along its boundary of stability with no three easy ones in a row between,
    which its last two stages tell; it takes
    over again after four steps that lie well within that boundary by a norm of the Jacobian. With
    given steps it stays with the method in charge. `solution.switches` lists the changes.

    Source of the estimates: Hairer and Wanner, Solving Ordinary Differential Equations II, section
    IV.2; the idea: Petzold, SIAM J. Sci. Stat. Comput. 4 (1983).
    """

    explicit_method: RungeKutta = field(default_factory=dopri5)
    implicit_method: ImplicitRungeKutta = field(default_factory=kvaerno5)
    name: str = field(default="auto", init=False)
    adaptive: bool = field(default=True, init=False)
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)
    compiles: bool = field(default=False, init=False)
    per_sample: bool = field(default=False, init=False)
    stages: LastStages = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stages = last_stages(self.explicit_method.tableau)
        if stages is None or not self.explicit_method.adaptive:
            raise ArgumentError(
                f"auto needs an explicit method with two stages at the end of a step, such as "
                f"dopri5 or tsit5; got {self.explicit_method.name}"
            )
        if not (self.implicit_method.adaptive and self.implicit_method.tableau.first_is_explicit):
            raise ArgumentError(
                "auto needs an implicit method with an error estimate that starts from the slope, "
                f"such as kvaerno5, radau5 or trbdf2; got {self.implicit_method.name}"
            )
        object.__setattr__(self, "stages", stages)

    @property
    def order(self) -> int:
        """The lower of both orders of convergence."""
        return min(self.explicit_method.order, self.implicit_method.order)

    @property
    def error_order(self) -> int:
        """The lower of the powers of the step size with which the estimates fall."""
        return min(self.explicit_method.tableau.estimate_order, self.implicit_method.error_order)

    @property
    def error_estimate(self) -> str:
        """Which error estimates decide on the steps."""
        return f"{self.explicit_method.error_estimate}, or {self.implicit_method.error_estimate}"

    def init(self, field: VectorField, t: Any, y: Tensor) -> Held:
        """Return the carry of the first step, which is explicit; one evaluation."""
        blank = self.implicit_method.init(field, t, y)
        return Held(
            blank.slopes[0], blank, blank, torch.zeros(3, dtype=torch.float64, device="cpu")
        )

    def slope(self, carry: Held) -> Tensor:
        """Return the slope at the start."""
        return carry.slope

    def active(self, carry: Held) -> str:
        """Return the name of the method in charge of the next step."""
        return (self.implicit_method if carry.counts[0] == _IMPLICIT else self.explicit_method).name

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Held,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y`, any shape, from t0 to t1 by the method in charge."""
        method, switchable = float(carry.counts.detach()[0]), tolerance is not None
        if method == _EXPLICIT:
            made = self.explicit_method.step(field, t0, t1, y, (carry.slope,), tolerance)
            counts = carry.counts
            if switchable and made.error is not None and made.error <= 1.0:
                stiff = self.stages.quotient(made.dense) > self.stages.limit
                # A Jacobian costs as much as so many steps.
                counts = _judged(counts, stiff, _STIFF + y.numel() // 6, _EASY)
            held = Held(made.carry[0], carry.blank, carry.blank, counts)
            return Step(made.y, made.error, held, Taken(False, made.dense))
        given = carry.implicit._replace(slopes=(carry.slope,))
        made = self.implicit_method.step(field, t0, t1, y, given, tolerance)
        after: Carry = made.carry
        counts = carry.counts
        if switchable and made.error is not None and made.error <= 1.0:
            reach = abs(t1 - t0) * _norm(after)
            counts = _judged(counts, reach < _WITHIN * self.stages.limit, _CALM, 1)
        held = Held(after.slopes[0], carry.blank, after, counts)
        retry = None if made.retry is None else carry._replace(implicit=made.retry)
        return Step(made.y, made.error, held, Taken(True, made.dense), retry)

    def interpolant(
        self, field: VectorField, t0: Any, t1: Any, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return the continuous output of the method that made the step."""
        taken: Taken = step.dense
        method = self.implicit_method if taken.implicit else self.explicit_method
        return method.interpolant(field, t0, t1, y0, step._replace(dense=taken.slopes))


def _judged(counts: Tensor, other: bool, needed: int, patience: int) -> Tensor:
    """Return the counts after one more accepted step, which speaks for the other method or not.

    That takes charge after `needed` steps that do, unless `patience` in a row do not.
    """
    method, speaking, silent = counts.tolist()
    if other:
        speaking, silent = speaking + 1, 0.0
    else:
        silent += 1
        speaking = 0.0 if silent >= patience else speaking
    if speaking >= needed:
        method, speaking, silent = 1.0 - method, 0.0, 0.0
    return torch.tensor([method, speaking, silent], dtype=torch.float64, device="cpu")


def auto(
    explicit_method: RungeKutta | None = None, implicit_method: ImplicitRungeKutta | None = None
) -> Auto:
    """Return the switching solver; by default of dopri5 and kvaerno5."""
    return Auto(explicit_method or dopri5(), implicit_method or kvaerno5())


def _norm(carry: Carry) -> float:
    """Return a bound on the Jacobian's eigenvalues; infinite where it is known by products only."""
    matrix = carry.known[0].detach().abs() if carry.known else torch.empty(0)
    if matrix.dim() != 3 or matrix.shape[-1] != matrix.shape[-2]:
        return float("inf")
    rows, columns = matrix.sum(-1).amax(), matrix.sum(-2).amax()
    return float((rows * columns).sqrt())
