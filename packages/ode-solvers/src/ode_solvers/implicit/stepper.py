"""Every implicit Runge-Kutta method: one stepper, the methods are tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ode_core import ArgumentError, SolveError, Step
from ode_core.interpolation import Hermite
from ode_solvers.implicit.attempt import Attempt
from ode_solvers.implicit.carry import Carry, start
from ode_solvers.implicit.linear import LinearSolver, chosen, named
from ode_solvers.implicit.table import ImplicitTableau
from ode_solvers.polynomial import Polynomial

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core import Tolerance
    from ode_core.protocols import Interpolant, VectorField
    from ode_solvers.implicit.jacobian import UserJacobian


@dataclass(frozen=True)
class ImplicitRungeKutta:
    """A stepper for an implicit tableau: diagonally implicit or with stages solved together.

    With shared steps the state is one system unless `batched`, which says that samples along
    dimension 0 do not know each other; per-sample steps imply it. `jacobian` is the user's function
    of t, 0-d, and the packed state: df/dy as `[N, N]`, or `[B, F, F]` for samples; otherwise it is
    computed, each evaluation of f for it counted. `linear` is "dense", "krylov" or a LinearSolver;
    by default up to 256 equations are solved densely. `newton_tol` is the relative size of the
    error that Newton's method may leave; by default that is round-off with fixed steps and a
    small part of the tolerance with chosen ones.

    Jacobian and factors live in the carry and are renewed when Newton's method slows down, so that
    a replayed step equals the first to Newton's tolerance. Gradients are those of the solved
    equations, by the implicit-function theorem.
    """

    tableau: ImplicitTableau
    batched: bool = False
    jacobian: UserJacobian | None = None
    linear: LinearSolver | str | None = None
    newton_tol: float | None = None
    implicit: bool = field(default=True, init=False)
    one_step: bool = field(default=True, init=False)
    per_sample: bool = field(default=True, init=False)
    moving_times: bool = field(default=True, init=False)
    transforms: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.jacobian is not None and not callable(self.jacobian):
            raise ArgumentError(f"jacobian is a function of t and y; got {self.jacobian!r:.60}")
        if self.newton_tol is not None and not 0.0 < self.newton_tol < 1.0:
            raise ArgumentError(f"newton_tol lies between 0 and 1; got {self.newton_tol!r}")
        object.__setattr__(self, "linear", named(self.linear, self.jacobian))

    @property
    def name(self) -> str:
        """The tableau's name."""
        return self.tableau.name

    @property
    def order(self) -> int:
        """The order of convergence."""
        return self.tableau.order

    @property
    def adaptive(self) -> bool:
        """Whether the table has error weights."""
        return self.tableau.b_error is not None

    @property
    def error_order(self) -> int:
        """The power of the step size with which the error estimate falls."""
        return self.tableau.estimate_order

    @property
    def error_estimate(self) -> str:
        """Which error estimate decides on the steps."""
        return self.tableau.error_estimate

    def linear_solver(self, rows: Tensor) -> LinearSolver:
        """Return what solves systems of `[B, n]` rows."""
        given = self.linear
        assert not isinstance(given, str)  # turned into an object when this was made
        return chosen(given, rows, self.jacobian)

    def init(self, field: VectorField, t: Any, y: Tensor) -> Carry:
        """Return the carry: the slope where the first stage is it, and no Jacobian yet."""
        return start(self, field, t, y)

    def slope(self, carry: Carry) -> Tensor | None:
        """Return the slope at the start where the carry holds it."""
        return carry.slopes[0] if carry.slopes else None

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y`, any shape, from t0 to t1.

        Where Newton's method fails the error is infinite; without a tolerance there is none, and
        SolveError is raised, or with per-sample steps the row is NaN.
        """
        attempt = Attempt(self, field, (t0, t1), y, carry, tolerance)
        if tolerance is None:
            return self._given(attempt)
        y1, slopes = attempt.advance()
        error = attempt.error(y1, slopes)
        return Step(y1, error, attempt.accepted(slopes), slopes, attempt.rejected())

    def replay(
        self, field: VectorField, t0: Any, t1: Any, y: Tensor, carry: Carry, y1: Tensor
    ) -> Step:
        """Advance `y` again, for first derivatives only: one evaluation a stage is recorded."""
        del y1
        return self._given(Attempt(self, field, (t0, t1), y, carry, None, twice=False))

    def _given(self, attempt: Attempt) -> Step:
        """Return a step whose size is not to be judged, or raise SolveError."""
        y1, slopes = attempt.advance()
        (t0, t1), failed = attempt.span, attempt.failed
        if failed.any() and not attempt.per_sample:
            raise SolveError(
                f"{self.name} could not solve its equations in the step from {t0:.6g} to {t1:.6g}, "
                "where Newton's method did not converge; take smaller steps, or give a tolerance"
            )
        return Step(attempt.spoiled(y1), None, attempt.accepted(slopes), slopes)

    def interpolant(
        self, field: VectorField, t0: Any, t1: Any, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return the table's continuous output, or a cubic through both ends.

        It evaluates f for slopes at the ends that are not among the stages'.
        """
        table, slopes = self.tableau, step.dense
        if table.dense is not None:
            return Polynomial(table, t1 - t0, y0, step.y, slopes)
        first = slopes[0] if table.first_is_explicit else field(t0, y0)
        last = slopes[-1] if table.last_is_solution else field(t1, step.y)
        return Hermite(t1 - t0, y0, first, step.y, last)
