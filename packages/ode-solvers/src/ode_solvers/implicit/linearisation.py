"""The Jacobian of a step, its age, and the linear systems that Newton's method solves with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ode_core import UnsupportedError
from ode_core.rows import where
from ode_solvers.implicit.carry import NEW
from ode_solvers.implicit.jacobian import UserJacobian
from ode_solvers.implicit.linear import LinearSolver, Parts, Solve
from ode_solvers.implicit.newton import Bools, Equations, Floats, constant, coupled
from ode_solvers.implicit.system import System


@dataclass(eq=False)
class Linearisation:
    """Systems with (g/h) I - J, J taken at a step's start, or at an earlier one while that does.

    `rows` is the state there, `[B, n]`; `h` a number or `[B, 1]`, nowhere 0; `sizes` the same on
    the host, `[B]`, 0 in idle rows; `factored` those for which there are factors; `age` each row's
    age of the Jacobian.
    """

    linear: LinearSolver
    own: UserJacobian | None
    system: System
    t: Any
    rows: Tensor
    h: Any
    sizes: Floats
    eigenvalues: Sequence[complex]
    known: Parts
    factors: Parts
    factored: Floats
    age: Floats
    shifts: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.shifts = [(g if g.imag else g.real) / self.h for g in self.eigenvalues]

    def renew(self, rows: Bools) -> None:
        """Take the Jacobian of some rows anew, and factors where they are not up to date."""
        if rows.any() or not self.linear.direct:
            fresh = self.linear.linearise(self.system, self.t, self.rows, self.own)
            whole = rows.all() or not self.linear.direct
            mask = torch.from_numpy(rows).to(self.rows.device)
            self.known = fresh if whole else where(mask, fresh, self.known)
            self.age = np.where(rows, NEW, self.age)
        # Equal steps differ by rounding.
        off = np.abs(self.factored - self.sizes) > 1e-9 * np.abs(self.sizes)
        if rows.any() or off.any():
            self.factors = self.linear.factor(self.known, self.shifts)
        self.factored = self.sizes

    def solver(self) -> Solve:
        """Return the linear solver at the step's start."""
        return self.linear.solver(self.known, self.factors, self.shifts, self.system, self.t)

    def proper(self, equations: Equations, z: Tensor) -> Tensor:
        """Return the correction of Newton's method proper, by every stage's own Jacobian.

        Without matrices all stages take the last one's.
        """
        stages = equations.base + z
        if not self.linear.direct:
            t = equations.times[-1]
            known = self.linear.linearise(self.system, t, stages[-1], self.own)
            solve = self.linear.solver(known, (), self.shifts, self.system, t)
            return equations.correction(solve, z)
        m, count, n = z.shape
        matrix = coupled(equations.block, self.jacobians(equations, z), equations.h)
        slopes = equations.slopes(z)
        weighted = torch.tensordot(constant(equations.block.a, z), slopes, 1) * equations.h
        right = (weighted - z).transpose(0, 1).reshape(count, m * n, 1)
        found: Tensor = torch.linalg.solve_ex(matrix, right)[0]
        return found.reshape(count, m, n).transpose(0, 1)

    def jacobians(self, equations: Equations, z: Tensor) -> Tensor:
        """Return every stage's own Jacobian, `[m, B, n, n]`; UnsupportedError without matrices."""
        if not self.linear.direct:
            raise UnsupportedError(
                "forward derivatives are not offered with linear='krylov'; take linear='dense', or "
                "a gradient method that goes backwards"
            )
        pairs = zip(equations.times, (equations.base + z).unbind(0), strict=True)
        own = [self.linear.linearise(self.system, t, rows, self.own)[0] for t, rows in pairs]
        return torch.stack(own)

    def filtered(self, estimate: Tensor) -> Tensor:
        """Return (I - h J / g)^-1 of an error estimate, `[B, n]`, g the real eigenvalue."""
        index = next(i for i, g in enumerate(self.eigenvalues) if not g.imag)
        return self.solver()(index, estimate * self.shifts[index])
