"""SciPy's stiff solvers behind the suite's protocol: on the CPU, in float64, without gradients."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.integrate import BDF, LSODA, Radau
from torch import Tensor

from ode_core import ArgumentError, Step, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ode_core import Tolerance
    from ode_core.protocols import Interpolant, VectorField

    Vector = NDArray[np.float64]


@dataclass(frozen=True)
class External:
    """One of SciPy's solver classes, which chooses the steps itself.

    A step of the suite is a whole stretch, up to the next jump or the end, that SciPy covers with
    steps of its own: their number is not in the statistics, the evaluations of f are. What SciPy
    cannot finish within `most` of its steps is a failed step, tried again over a shorter stretch.
    The result is differentiated by the continuous adjoint alone, which solves anew.
    """

    name: str
    order: int
    make: Callable[..., Any]
    most: int = 100_000
    adaptive: bool = field(default=True, init=False)
    implicit: bool = field(default=True, init=False)
    one_step: bool = field(default=True, init=False)
    per_sample: bool = field(default=False, init=False)
    differentiable: bool = field(default=False, init=False)
    chooses_steps: bool = field(default=True, init=False)

    @property
    def error_estimate(self) -> str:
        """Which error estimate decides on the steps."""
        return f"SciPy's own in {self.make.__name__}"

    def init(self, field: VectorField, t: float, y: Tensor) -> tuple[()]:
        """Return an empty carry: every stretch begins anew.

        Raises UnsupportedError for a state that is complex, not on the CPU or requires a gradient.
        """
        del field, t
        if y.is_complex():
            raise UnsupportedError(f"{self.name} takes real states; solve for the real pair")
        if y.device.type != "cpu":
            raise UnsupportedError(
                f"{self.name} runs on the CPU and the state is on {y.device}; move it with .cpu(), "
                "or take an implicit solver of the suite such as 'kvaerno5'"
            )
        self._refuse_gradient(y)
        return ()

    def step(
        self,
        field: VectorField,
        t0: float,
        t1: float,
        y: Tensor,
        carry: tuple[()],
        tolerance: Tolerance | None,
    ) -> Step:
        """Solve from t0 to t1; the error is 0, or infinite where SciPy gave up."""
        if tolerance is None:
            raise UnsupportedError(
                f"{self.name} chooses its steps itself and takes no fixed steps; drop FixedSteps"
            )

        def f(t: float, x: Vector) -> Vector:
            state = torch.from_numpy(x.copy()).to(y.dtype).view(y.shape)
            slope = field(float(t), state)
            self._refuse_gradient(slope)
            return slope.detach().double().reshape(-1).numpy()

        rtol, atol = _flat(tolerance.rtol, y), _flat(tolerance.atol, y)
        # SciPy's implicit methods take one rtol: the strictest is what all entries can rely on.
        rtol = float(rtol if isinstance(rtol, float) else rtol.min())
        start = y.detach().double().reshape(-1).numpy().copy()
        solver = self.make(f, t0, start, t1, rtol=rtol, atol=atol)
        ends: list[float] = []
        pieces: list[Any] = []
        while solver.status == "running" and len(pieces) < self.most:
            before = solver.t
            solver.step()
            # LSODA goes on for ever where its steps no longer move the clock.
            if solver.status == "failed" or solver.t == before or not np.isfinite(solver.y).all():
                break
            ends.append(solver.t)
            pieces.append(solver.dense_output())
        y1 = torch.from_numpy(solver.y.copy()).to(y.dtype).view(y.shape)
        good = solver.status == "finished" and bool(torch.isfinite(y1).all())
        return Step(y1, 0.0 if good else float("inf"), carry, (ends, pieces))

    def interpolant(
        self, field: VectorField, t0: float, t1: float, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return SciPy's own continuous output, without another evaluation."""
        del field
        return Output(t0, t1, y0, step.y, *step.dense)

    def _refuse_gradient(self, x: Tensor) -> None:
        if torch.is_grad_enabled() and x.requires_grad:
            raise UnsupportedError(
                f"{self.name} takes its steps outside of torch, so that no gradient passes through "
                "them; solve under torch.no_grad(), or take gradient='adjoint' or another solver"
            )


def _flat(value: float | Tensor, y: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().double().expand(y.shape).reshape(-1).numpy()


@dataclass(frozen=True, eq=False)
class Output:
    """The pieces of one stretch: SciPy's polynomials and where each of them ends."""

    t0: float
    t1: float
    y0: Tensor
    y1: Tensor
    ends: list[float]
    pieces: list[Any]

    def __call__(self, theta: float) -> Tensor:
        """Return the state at t0 + theta (t1 - t0), like `y0`."""
        if theta in (0.0, 1.0):
            return self.y1 if theta else self.y0
        t = self.t0 + theta * (self.t1 - self.t0)
        sign = 1.0 if self.t1 > self.t0 else -1.0
        index = bisect_left(self.ends, sign * t, key=lambda end: sign * end)
        x = self.pieces[min(index, len(self.pieces) - 1)](t)
        return torch.from_numpy(np.asarray(x)).to(self.y0.dtype).view(self.y0.shape)


def scipy_radau(most: int = 100_000) -> External:
    """Return SciPy's Radau IIA method of order 5."""
    return _external("scipy_radau", 5, Radau, most)


def scipy_bdf(most: int = 100_000) -> External:
    """Return SciPy's backward differentiation formulae of orders 1 to 5."""
    return _external("scipy_bdf", 5, BDF, most)


def scipy_lsoda(most: int = 100_000) -> External:
    """Return SciPy's LSODA, which switches between Adams and backward differentiation formulae."""
    return _external("scipy_lsoda", 12, LSODA, most)


def _external(name: str, order: int, make: Callable[..., Any], most: int) -> External:
    if most < 1:
        raise ArgumentError(f"most is the number of SciPy's steps in a stretch, from 1; got {most}")
    return External(name, order, make, most)
