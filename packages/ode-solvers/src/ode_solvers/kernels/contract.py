"""What a kernel does: the only arithmetic on states that an explicit method needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ode_core import Tolerance
from ode_solvers.tableau import Dense, Row


@runtime_checkable
class Kernel(Protocol):
    """Sums of a state and weighted slopes, and the scaled norm of an error.

    States and slopes have one shape, dtype and device; what comes back is in fresh memory. 16-bit
    states are accumulated in float32 and rounded once.

    A step size is a number, 0-d on the device, where norms then stay, or `[B]`. A kernel may also
    have `interpolate(y, h, theta, dense, ks)`, the continuous output y + h sum b(theta) ks[i] of a
    table's `dense` in one go; without it the sum is made by torch operations.
    """

    @property
    def name(self) -> str:
        """The name by which it is asked for."""

    def prepare(self, dt: float | Tensor, y: Tensor) -> Any:
        """Return the signed step size in the form that the other two take, once a step.

        A number, 0-d, or with per-sample steps `[B]` for a state `[B, ...]`; a kernel that cannot
        raises ArgumentError.
        """

    def combine(self, y: Tensor, h: Any, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum_(i, w) in row w ks[i], differentiable in `y` and `ks`."""

    def finish(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Any,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the new state and the scaled norm of each error estimate h sum w ks[i].

        `y1` is the new state where a stage has it already, else None and it is made here from the
        row `solution`. A norm is a float, or 0-d or `[B]` like the step size; it is infinite where
        the estimate or the new state is not finite.
        Only the state is differentiable.
        """


@runtime_checkable
class RowKernel(Kernel, Protocol):
    """A kernel for per-sample steps, which also evaluates the continuous output of single rows."""

    def outputs(
        self,
        y: Tensor,
        dt: Tensor,
        dense: Dense,
        ks: Sequence[Tensor],
        rows: Tensor,
        theta: Tensor,
    ) -> Tensor:
        """Return y + dt sum_i b_i(theta) ks[i] in the `[n]` rows, at `[n]` thetas, `[n, ...]`.

        `dt` is `[B]`; the b_i are those of the continuous output `dense`.
        """
