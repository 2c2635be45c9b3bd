"""Whether a problem looks stiff to an explicit method, from slopes that it has evaluated anyway."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ode_solvers.kernels.choose import named
from ode_solvers.tableau import Row, Tableau, row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Hairer's rule: what counts lies beyond 3.25, where dopri5 is stable to 3.3066.
_NEAR = 3.25 / 3.3066
_STIFF = 15
_EASY = 6
# A solve of fewer steps is no struggle, wherever stability lies; without suspicion a look now and
# then is enough, and costs nothing.
_FIRST = 100
_EVERY = 25


@dataclass(frozen=True)
class LastStages:
    """Two slopes at the end of a step, at two states: what tells how fast f changes there.

    `row` are the weights of the difference of those states, `limit` is the h lambda from which
    stability decides on the step.
    """

    row: Row
    limit: float

    def quotient(self, ks: Sequence[Tensor]) -> float:
        """Return |h| times an estimate of the largest eigenvalue of f's Jacobian, in size.

        `ks` are all slopes of a step, of the state's shape and dtype. It is the Euclidean norm of
        the last two's difference over that of their states' difference over h, and 0 where the
        states are equal. One value is read from the device.

        Source: Hairer and Wanner, Solving Ordinary Differential Equations II, section IV.2.
        """
        ks = [k.detach() for k in ks]
        apart = named("cpu").combine(ks[0].new_zeros(ks[0].shape), 1.0, self.row, ks)
        change = (ks[-1] - ks[-2]).abs().square().sum()
        quotient = (change / apart.abs().square().sum()).sqrt()
        found: float = quotient.nan_to_num(0.0, 0.0).item()
        return found


@cache
def last_stages(tableau: Tableau) -> LastStages | None:
    """Return the last two stages of a table such as dopri5's or tsit5's, None of any other."""
    if not tableau.last_is_solution or tableau.stages < 3 or tableau.c[-2] != 1.0:
        return None
    before = (*tableau.a[-2], 0.0)
    row = row_of([last - other for last, other in zip(tableau.a[-1], before, strict=True)])
    return LastStages(row, _NEAR * real_boundary(tableau))


def real_boundary(tableau: Tableau) -> float:
    """Return how far the interval of stability reaches on the negative real axis.

    It is the least x > 0 beyond which |R(-x)| > 1, with the stability function
    R(z) = 1 + sum_i z^(i + 1) b A^i 1 of an explicit method.
    """
    matrix = np.zeros((tableau.stages, tableau.stages))
    for index, row in enumerate(tableau.a):
        matrix[index, : len(row)] = row
    power, coefficients = np.ones(tableau.stages), [1.0]
    for _ in range(tableau.stages):
        coefficients.append(float(np.dot(tableau.b, power)))
        power = matrix @ power
    roots: list[float] = []
    for bound in (1.0, -1.0):
        shifted = np.array(coefficients[::-1])
        shifted[-1] -= bound
        roots += [float(z.real) for z in np.roots(shifted) if abs(z.imag) < 1e-9]
    return -max(root for root in roots if root < -1e-9)


class Suspicion(NamedTuple):
    """How many accepted steps ran along the boundary of stability, by Hairer's rule.

    From the hundredth step on every 25th is looked at. Once the quotient of one exceeds the limit,
    the next ones count too where theirs do, until six others have set the count back to nothing.
    Fifteen that count say that stability, not accuracy, limits the steps.

    Source: the code dopri5 of Hairer, Nørsett, Wanner I.
    """

    steps: int = 0
    stiff: int = 0
    easy: int = 0

    def after(self, stages: LastStages, ks: Sequence[Tensor]) -> Suspicion:
        """Return the suspicion after one more accepted step, with all its slopes."""
        steps = self.steps + 1
        if steps < _FIRST or self.founded or (self.stiff == 0 and steps % _EVERY):
            return Suspicion(steps, self.stiff, self.easy)
        if stages.quotient(ks) > stages.limit:
            return Suspicion(steps, self.stiff + 1, 0)
        if self.stiff == 0 or self.easy + 1 >= _EASY:
            return Suspicion(steps)
        return Suspicion(steps, self.stiff, self.easy + 1)

    @property
    def founded(self) -> bool:
        """Whether the problem looks stiff; it stays so."""
        return self.stiff >= _STIFF

    @property
    def sentence(self) -> str:
        """What a user should know, empty where there is no reason for suspicion."""
        if not self.founded:
            return ""
        return (
            "the problem looks stiff, because stability and not accuracy limits the steps: "
            "take an implicit solver such as 'kvaerno5' or 'radau5'"
        )
