"""Linear solvers for Newton's method: systems with (g/h) I - J for a few shifts g/h."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ode_core import ArgumentError
from ode_solvers.implicit.gmres import gmres
from ode_solvers.implicit.jacobian import UserJacobian, jacobian, product
from ode_solvers.implicit.system import System

Shift = Any
"""g/h: a number with shared steps, `[B, 1]` with per-sample ones; real or complex."""

Solve = Callable[[int, Tensor], Tensor]
"""`solve(shift index, right side [B, n]) -> [B, n]`."""

Parts = tuple[Tensor, ...]
"""What a linear solver keeps between steps, each with a leading `[B]`."""


@runtime_checkable
class LinearSolver(Protocol):
    """How (g/h) I - J is solved: `LU`, `Krylov`, or any object with these members.

    One that also has `pulled(times, right)`, which solves a system given the product with its
    matrix, is asked for that in the backward pass; for others the matrix is built there.
    """

    @property
    def direct(self) -> bool:
        """Whether it keeps a Jacobian and factors from step to step."""

    def empty(self, rows: Tensor, shifts: Sequence[complex]) -> tuple[Parts, Parts]:
        """Return what `linearise` and `factor` return, in shape and dtype, for `[B, n]` rows."""

    def linearise(self, system: System, t: Any, rows: Tensor, own: UserJacobian | None) -> Parts:
        """Return what is known of the Jacobian at a time and `[B, n]` rows."""

    def factor(self, known: Parts, shifts: Sequence[Shift]) -> Parts:
        """Return what makes solving quick."""

    def solver(
        self, known: Parts, factors: Parts, shifts: Sequence[Shift], system: System, t: Any
    ) -> Solve:
        """Return the function that solves."""


@dataclass(frozen=True)
class LU:
    """The whole Jacobian, one LU decomposition for each shift: for up to some hundred equations."""

    direct: ClassVar[bool] = True

    def empty(self, rows: Tensor, shifts: Sequence[complex]) -> tuple[Parts, Parts]:
        """Return zeros."""
        count, size = rows.shape
        matrix = rows.new_zeros(count, size, size)
        parts: list[Tensor] = []
        for shift in shifts:
            dtype = rows.dtype.to_complex() if shift.imag else rows.dtype
            parts.append(matrix.to(dtype))
            parts.append(torch.zeros(count, size, dtype=torch.int32, device=rows.device))
        return (matrix,), tuple(parts)

    def linearise(self, system: System, t: Any, rows: Tensor, own: UserJacobian | None) -> Parts:
        """Return the Jacobian, `[B, n, n]`."""
        return (jacobian(system, t, rows, own),)

    def factor(self, known: Parts, shifts: Sequence[Shift]) -> Parts:
        """Return `[B, n, n]` factors and `[B, n]` pivots for each shift."""
        parts: list[Tensor] = []
        negative = known[0].neg()
        for shift in shifts:
            complex_shift = shift.is_complex() if isinstance(shift, Tensor) else shift.imag
            # A clone: `neg` made one tensor, and each shift has its own diagonal.
            matrix = negative.to(negative.dtype.to_complex()) if complex_shift else negative.clone()
            matrix.diagonal(dim1=1, dim2=2).add_(shift if complex_shift else _real(shift))
            factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
            parts += [factors, pivots]
        return tuple(parts)

    def solver(
        self, known: Parts, factors: Parts, shifts: Sequence[Shift], system: System, t: Any
    ) -> Solve:
        """Return back substitution."""
        del known, shifts, system, t

        def solve(index: int, right: Tensor) -> Tensor:
            lu, pivots = factors[2 * index], factors[2 * index + 1]
            found: Tensor = torch.linalg.lu_solve(lu, pivots, right.unsqueeze(2))
            return found.squeeze(2)

        return solve


@dataclass(frozen=True)
class Krylov:
    """GMRES with products of the Jacobian only: for large states.

    It is restarted after `restart` products and stops when the residual has fallen by `rtol`, or
    after `restarts` of them; what is missing then is left to the next Newton iteration.

    Source: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986); Brown and Hindmarsh, Appl. Math.
    Comput. 31 (1989), on how exact it needs to be within Newton's method.
    """

    rtol: float = 1e-3
    restart: int = 40
    restarts: int = 5
    direct: ClassVar[bool] = False

    def empty(self, rows: Tensor, shifts: Sequence[complex]) -> tuple[Parts, Parts]:
        """Return nothing: products are taken anew."""
        del rows, shifts
        return (), ()

    def linearise(self, system: System, t: Any, rows: Tensor, own: UserJacobian | None) -> Parts:
        """Return the point, `[B, n]`."""
        del system, t, own
        return (rows.detach(),)

    def factor(self, known: Parts, shifts: Sequence[Shift]) -> Parts:
        """Return nothing."""
        del known, shifts
        return ()

    def solver(
        self, known: Parts, factors: Parts, shifts: Sequence[Shift], system: System, t: Any
    ) -> Solve:
        """Return GMRES at the point."""
        del factors
        (rows,) = known

        def solve(index: int, right: Tensor) -> Tensor:
            shift = shifts[index] if right.is_complex() else _real(shifts[index])

            def jacobian_times(v: Tensor) -> Tensor:
                return product(system, t, rows, v.contiguous())

            def times(v: Tensor) -> Tensor:
                if not v.is_complex():
                    moved = jacobian_times(v)
                else:
                    moved = torch.complex(jacobian_times(v.real), jacobian_times(v.imag))
                return torch.sub(shift * v, moved)

            return gmres(times, right, self.rtol, self.restart, self.restarts)

        return solve

    def pulled(self, times: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        """Solve by products to round-off."""
        eps = torch.finfo(right.dtype).eps
        return gmres(times, right, 1e2 * eps, self.restart, 20 * self.restarts)


def _real(shift: Shift) -> Any:
    return shift.real if isinstance(shift, complex) or _is_complex(shift) else shift


def _is_complex(shift: Shift) -> bool:
    return isinstance(shift, Tensor) and shift.is_complex()


DENSE_LIMIT = 256
"""Up to so many equations a system is solved by `LU` unless something else is asked for."""


def chosen(linear: LinearSolver | None, rows: Tensor, own: UserJacobian | None) -> LinearSolver:
    """Return the solver asked for, or the one that fits `[B, n]` rows and the user's Jacobian."""
    if linear is not None:
        return linear
    count, size = rows.shape
    small = size <= DENSE_LIMIT and count * size * size <= 2**25
    return LU() if small or own is not None else Krylov()


_NAMES: dict[str, LinearSolver] = {"dense": LU(), "krylov": Krylov()}


def named(linear: LinearSolver | str | None, own: UserJacobian | None) -> LinearSolver | None:
    """Return the linear solver of that name, or the object itself; raises ArgumentError."""
    if isinstance(linear, str) and linear in _NAMES:
        linear = _NAMES[linear]
    if not (linear is None or isinstance(linear, LinearSolver)):
        raise ArgumentError(
            f"linear is 'dense', 'krylov' or an object like LU() or Krylov(); got {linear!r:.60}"
        )
    if own is not None and linear is not None and not linear.direct:
        raise ArgumentError("jacobian= has no effect on a Krylov solver; drop it, or take 'dense'")
    return linear
