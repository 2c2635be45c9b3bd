"""One attempt at an implicit step: the stages block by block, and what is kept for the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core.rows import where
from ode_solvers.implicit.carry import NEW, OLD, WORN, Carry, Memory, home, system_of
from ode_solvers.implicit.guess import extrapolated, predicted
from ode_solvers.implicit.implicit_function import attached, pushed
from ode_solvers.implicit.linear import Parts
from ode_solvers.implicit.linearisation import Linearisation
from ode_solvers.implicit.newton import Bools, Equations, Floats, Limits, Outcome, newton
from ode_solvers.implicit.system import node_time

if TYPE_CHECKING:
    from ode_core import Tolerance
    from ode_core.protocols import VectorField
    from ode_solvers.implicit.stepper import ImplicitRungeKutta
    from ode_solvers.implicit.table import Block

_WORN_RATE = 0.03
_KAPPA = 3e-2


class Attempt:
    """The stages of one step from t0 to t1, and the state of its Newton iterations."""

    def __init__(
        self,
        solver: ImplicitRungeKutta,
        field: VectorField,
        span: tuple[Any, Any],
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
        *,
        twice: bool = True,
    ) -> None:
        self.solver, self.table, self.tolerance = solver, solver.tableau, tolerance
        self.span, self.y, self.carry, self.twice = span, y, carry, twice
        self.per_sample = isinstance(span[0], Tensor)
        self.system = system_of(solver, field, span[0], y)
        self.rows = self.system.rows(y)
        self.start = self.rows.detach()
        size = span[1] - span[0]
        if self.per_sample:
            read = torch.cat([carry.memory.detach(), size[:, None]], 1).cpu().numpy()
            self.sizes, self.h = read[:, 4], size.to(self.start.dtype)[:, None]
        else:
            read = carry.memory.detach().numpy()
            self.sizes, self.h = np.full(len(read), float(size)), size
        self.memory = Memory(*read[:, :4].T)
        self.idle: Bools = self.sizes == 0.0
        # An idle row divides by 1 instead of 0; nothing of it is used.
        self.divisor = torch.where(self.h == 0.0, 1.0, self.h) if self.per_sample else self.h
        self.failed: Bools = np.zeros(len(read), dtype=bool)
        self.rate, self.eta = np.zeros(len(read)), self.memory.eta.copy()
        self.stages: Parts = ()
        self.limits = self._limits()
        self.lines = Linearisation(
            solver.linear_solver(self.start),
            solver.jacobian,
            self.system,
            span[0],
            self.start,
            self.divisor,
            self.sizes,
            self.table.shifts,
            carry.known,
            carry.factors,
            self.memory.factored,
            self.memory.age,
        )
        self.lines.renew(self.memory.age >= WORN)

    def advance(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the state at t1 and the stages' slopes, all like the state."""
        table, last = self.table, self.rows
        slopes: list[Tensor] = []
        for block in table.blocks:
            bases = [self._sum(row, slopes) for row in block.couplings]
            if block.a is None:
                slopes.append(self._explicit(block, bases[0]))
                continue
            z, implied = self._solved(block, torch.stack(bases), slopes)
            last = bases[-1] + z[-1]
            slopes += implied.unbind(0)
        if not table.last_is_solution:
            last = self._sum(table.solution_row, slopes)
        state = self.system.state
        # Fresh memory: a step may have had nothing to add.
        return state(last.clone() if last is self.rows else last), tuple(map(state, slopes))

    def error(self, y1: Tensor, slopes: tuple[Tensor, ...]) -> Any:
        """Return the scaled norm of the error estimate, infinite where Newton's method failed."""
        assert self.tolerance is not None  # asked for only where there is one
        if self.failed.all():
            return self._rowwise(math.inf) if self.per_sample else math.inf
        if self.failed.any() and not self.per_sample:
            return math.inf
        with torch.no_grad():
            rows = [self.system.rows(slope.detach()) for slope in slopes]
            estimate = self._sum(self.table.error_rows[0], rows, base=False)
            if self.table.filtered:
                estimate = self.lines.filtered(estimate)
            norm: Any = self.tolerance.norm(self.system.state(estimate), self.y, y1.detach())
            if self.per_sample and self.failed.any():
                norm = torch.where(self._mask(self.failed), math.inf, norm)
        return norm

    def accepted(self, slopes: tuple[Tensor, ...]) -> Carry:
        """Return the carry for the step from t1."""
        age = np.where(self.rate > _WORN_RATE, WORN, OLD)
        memory = self._memory(self.sizes, np.where(self.idle, self.memory.age, age))
        kept = (slopes[-1],) if self.carry.slopes else ()
        stages = self.stages or self.carry.stages
        if self.idle.any():
            mask = self._mask(self.idle)
            kept = where(mask, self.carry.slopes, kept)
            stages = where(mask, self.carry.stages, stages)
        return Carry(kept, stages, self.lines.known, self.lines.factors, memory)

    def rejected(self) -> Carry:
        """Return the carry for another attempt from t0: the Jacobian as it is now."""
        lines = self.lines
        worn = (self.rate > _WORN_RATE) & (lines.age != NEW)
        memory = self._memory(self.memory.last, np.where(worn, WORN, lines.age))
        return self.carry._replace(known=lines.known, factors=lines.factors, memory=memory)

    def spoiled(self, y1: Tensor) -> Tensor:
        """Return the state with NaN in the rows that failed."""
        if not self.failed.any():
            return y1
        spoiled: Tensor = where(self._mask(self.failed), torch.full_like(y1, math.nan), y1)
        return spoiled

    def _memory(self, last: Floats, age: Floats) -> Tensor:
        last = np.where(self.idle, self.memory.last, last)
        eta = np.where(self.failed, 1.0, self.eta)
        columns = np.stack([self.lines.factored, last, age, eta], 1)
        return torch.from_numpy(columns).to(home(self.span[0], self.y))

    def _explicit(self, block: Block, base: Tensor) -> Tensor:
        if block.start == 0 and self.carry.slopes:
            return self.system.rows(self.carry.slopes[0])
        return self.system.slope(node_time(*self.span, self.table.c[block.start]), base)

    def _sum(self, row: Any, slopes: list[Tensor], *, base: bool = True) -> Tensor:
        """Return y + h sum w_j k_j, or the sum alone, as rows."""
        total = self.rows if base else None
        for index, weight in row:
            scale, slope = weight * self.h, slopes[index]
            if total is None:
                total = slope * scale
            elif self.per_sample:
                total = torch.addcmul(total, slope, scale.expand_as(slope))
            else:
                total = torch.add(total, slope, alpha=scale)
        return self.rows if total is None else total

    def _solved(self, block: Block, base: Tensor, slopes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return a block's Z and slopes, `[m, B, n]`, with gradients where they are wanted."""
        times = tuple(node_time(*self.span, c) for c in self.table.c[block.start : block.stop])
        grad = torch.is_grad_enabled()
        watch = grad and not base.requires_grad
        equations = Equations(self.system, block, times, self.divisor, base.detach(), watch)
        with torch.no_grad():
            z = self._iterated(equations, slopes)
        if block.size > 1:
            self.stages = (z.transpose(0, 1),)
        if forward_ad._current_level >= 0:
            z = pushed(equations, base, z, self.lines.jacobians(equations, z))
        elif grad and (base.requires_grad or equations.needs_gradient):
            z = attached(equations, base, z, self.lines.linear, twice=self.twice)
        return z, equations.implied(z)

    def _iterated(self, equations: Equations, slopes: list[Tensor]) -> Tensor:
        """Return a block's Z, with a new Jacobian where the old one does not do."""
        lines, skip = self.lines, self.idle | self.failed
        guess = self._guess(equations.block, slopes)
        simplified = partial(equations.correction, lines.solver())
        found = newton(simplified, guess, self._eta(), skip, self.limits)
        z, lost = self._took(found, skip), found.failed & ~skip
        old = lost & (lines.age != NEW)
        if old.any():
            lines.renew(old)
            simplified = partial(equations.correction, lines.solver())
            z, lost = self._again(simplified, z, lost, self.limits)
        if lost.any() and self.tolerance is None:
            proper = partial(lines.proper, equations)
            limits = self.limits._replace(iterations=50, patient=True)
            z, lost = self._again(proper, z, lost, limits)
        self.failed |= lost
        return torch.where(self._mask(lost)[None, :, None], 0.0, z) if lost.any() else z

    def _again(
        self,
        correct: Callable[[Tensor], Tensor],
        z: Tensor,
        lost: Bools,
        limits: Limits,
    ) -> tuple[Tensor, Bools]:
        """Return Z with the lost rows solved anew from zero, and those that are lost still."""
        fresh = np.ones_like(self.eta)
        again = newton(correct, torch.zeros_like(z), fresh, ~lost, limits)
        self._took(again, ~lost)
        # What an old Jacobian did says nothing about the new one.
        self.rate = np.where(lost, again.rate, self.rate)
        return torch.where(self._mask(lost)[None, :, None], again.z, z), again.failed & lost

    def _took(self, found: Outcome, skip: Bools) -> Tensor:
        self.rate = np.where(skip, self.rate, np.maximum(self.rate, found.rate))
        self.eta = np.where(skip | found.failed, self.eta, found.eta)
        return found.z

    def _eta(self) -> Floats:
        if self.tolerance is None:
            return np.ones_like(self.eta)
        return np.maximum(self.eta, 1e-16) ** 0.8

    def _guess(self, block: Block, slopes: list[Tensor]) -> Tensor:
        if block.size > 1:
            ratio = np.where(self.memory.last == 0.0, 0.0, self.sizes)
            ratio = ratio / np.where(self.memory.last == 0.0, 1.0, self.memory.last)
            nodes = self.table.c[block.start : block.stop]
            return extrapolated(self.carry.stages[0], nodes, ratio)
        return predicted(self.table, block, slopes, self.h, self.start)

    def _limits(self) -> Limits:
        eps = torch.finfo(self.start.dtype).eps
        own = self.solver.newton_tol
        if self.tolerance is not None and own is None:
            scale = self.tolerance.scale(self.y.detach(), self.y.detach())
            if self.y.is_complex():
                scale = scale.unsqueeze(-1).expand(*scale.shape, 2)
            allowed = scale.reshape(self.start.shape) * _KAPPA
            allowed = allowed.add_(self.start.abs(), alpha=4.0 * eps)
            return Limits(lambda dz, z: (dz.abs() / allowed).amax((0, 2)), 10, 0.1)
        relative = eps if own is None else own

        def measure(dz: Tensor, z: Tensor) -> Tensor:
            size = (self.start + z).abs().amax((0, 2)).to(torch.float64)
            return dz.abs().amax((0, 2)).to(torch.float64) / (size * relative + 1e-290)

        return Limits(measure, 20, max(1.0, 1e3 * eps / relative))

    def _rowwise(self, value: float) -> Tensor:
        return torch.full(self.failed.shape, value, dtype=torch.float64, device=self.y.device)

    def _mask(self, rows: Bools) -> Tensor:
        return torch.from_numpy(rows).to(self.y.device)
