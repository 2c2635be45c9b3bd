"""Derivatives of a state with respect to many parameters at once, through one step after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core import UnsupportedError
from ode_core.capture import Watched
from ode_core.clock import moving
from ode_core.interpolation import interpolant
from ode_core.loops.outputs import needs_interpolant, output_at, state_at
from ode_core.replay import Again, Replay
from ode_solvers.gradients.rewind import begun_with, leaves_of, shifts_of, with_leaves

if TYPE_CHECKING:
    from ode_core import Plan
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem
    from ode_core.protocols import Carry, Step


class Basis:
    """The directions of differentiation: one for each real number in each tensor met so far."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._met: dict[int, tuple[Tensor, int]] = {}
        self.count = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, in the order in which they were met."""
        return tuple(x for x, _ in self._met.values())

    def meet(self, tensors: Iterable[Tensor]) -> None:
        """Add the directions of tensors not met before; UnsupportedError beyond the limit."""
        for x in tensors:
            if id(x) not in self._met:
                self._met[id(x)] = (x, self.count)
                self.count += _reals(x)
        if self.count > self._limit:
            largest = max(self.tensors, key=Tensor.numel)
            raise UnsupportedError(
                f"gradient='forward' carries a derivative along for each of {self.count} numbers "
                f"that require gradients, the largest tensor being of shape "
                f"{tuple(largest.shape)}, which pays off for some tens: take "
                f"gradient='checkpoint', whose cost does not depend on their number, or "
                f"Forward(limit={self.count})"
            )

    def along(self, x: Tensor) -> Tensor:
        """Return what each direction is in a tensor met before, `[P, ...]`, like the tensor."""
        start, numel = self._met[id(x)][1], x.numel()
        units = torch.zeros(self.count, numel, dtype=x.dtype, device=x.device)
        places = torch.arange(numel, device=x.device)
        units[start + places, places] = 1.0
        if x.is_complex():
            units[start + numel + places, places] = 1j
        return units.reshape(self.count, *x.shape)

    def gradients(self, slopes: Tensor) -> dict[int, Tensor]:
        """Return by id the gradients of the tensors from a real loss's slopes, `[P]`."""
        found = {}
        for x, start in self._met.values():
            parts = slopes[start : start + _reals(x)].to(x.device)
            if x.is_complex():
                parts = torch.complex(*parts.chunk(2))
            found[id(x)] = parts.to(x.dtype).reshape(x.shape)
        return found


def _reals(x: Tensor) -> int:
    return x.numel() * (2 if x.is_complex() else 1)


@dataclass(eq=False)
class Tangents:
    """The derivatives of the state that a solve has reached, and of its outputs so far."""

    problem: Problem
    plan: Plan
    watched: Watched
    replay: Replay
    basis: Basis
    chunk: int | None
    _state: Tensor | None = None
    _carry: list[Tensor] = field(default_factory=list)
    _rows: dict[int, Tensor] = field(default_factory=dict)
    _vectorised: bool = True

    def take(self, accepted: Accepted, rows: dict[int, float]) -> None:
        """Go through an accepted step; `rows` are those of the states it answered for, by time."""
        self.basis.meet(self.watched.tensors)
        if not self.basis.count:
            return
        one_step = self.plan.solver.one_step
        self._state = self._grown(self._state, self.problem.y0)
        if not one_step:
            known = self._carry or [None] * len(leaves_of(accepted.carry))
            begun = begun_with(self.plan) or leaves_of(accepted.carry)
            self._carry = [self._grown(*pair) for pair in zip(known, begun, strict=True)]
        self.replay.settle()
        with self.replay.again(()):
            step = _Again(self.problem, self.plan, accepted, rows, self._tensors())
            seeds = (self._state, *self._carry, *map(self.basis.along, step.tensors))
            self._state, *found = self._pushed(step, seeds)
        self._carry = found[: len(self._carry)]
        for row, tangent in zip(rows, found[len(self._carry) :], strict=True):
            self._rows[row] = tangent
        self.problem.field.forget()

    def gathered(self, rows: int, left: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return those of all outputs, `[P, R, ...]`, and of the carry that was left."""
        start = self._grown(None, self.problem.y0)
        outputs = [self._grown(self._rows.get(row, start), start[0]) for row in range(rows)]
        carry = self._carry or [self._grown(None, x) for x in left]
        return torch.stack(outputs, 1), *carry

    def _tensors(self) -> tuple[Tensor, ...]:
        """Return what a step depends on beside its state and carry; shifts of times come last."""
        own = (self.problem.y0, *shifts_of(self.problem), *begun_with(self.plan))
        found = [x for x in self.basis.tensors if not any(x is other for other in own)]
        return (*found, *shifts_of(self.problem))

    def _grown(self, tangent: Tensor | None, x: Tensor) -> Tensor:
        """Return a tangent with zeros for directions met since; without one, those of `x`."""
        count = self.basis.count
        if tangent is None:
            known = any(x is other for other in self.basis.tensors)
            return self.basis.along(x) if known else x.new_zeros(count, *x.shape)
        missing = count - len(tangent)
        return torch.cat([tangent, tangent.new_zeros(missing, *tangent.shape[1:])])

    def _pushed(self, step: _Again, seeds: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the derivatives of what a step makes, `[P, ...]`, from those of its start."""
        if self._vectorised:
            try:
                return list(_together(step, seeds, self.chunk))
            except (RuntimeError, NotImplementedError):
                # What f does may have no rule for many directions at once, such as writing into a
                # tensor of its own; one by one they may go through.
                self._vectorised = False
        try:
            single = [_alone(step, seed) for seed in zip(*seeds, strict=True)]
        except (RuntimeError, NotImplementedError) as error:
            raise UnsupportedError(
                "gradient='forward' needs forward derivatives of f, and torch has none for "
                f"something that it does: {str(error).splitlines()[0]:.200}; take "
                "gradient='checkpoint'"
            ) from error
        return [torch.stack(parts) for parts in zip(*single, strict=True)]


@dataclass(frozen=True, eq=False)
class _Again:
    """A step made again, as a function of where it starts and of what it depends on."""

    problem: Problem
    plan: Plan
    accepted: Accepted
    rows: dict[int, float]
    tensors: tuple[Tensor, ...]

    @property
    def start(self) -> tuple[Tensor, ...]:
        """The state, the carry's tensors where `init` does not make it, and all other tensors."""
        leaves = [] if self.plan.solver.one_step else leaves_of(self.accepted.carry)
        return tuple(x.detach() for x in (self.accepted.y0, *leaves, *self.tensors))

    def __call__(self, *start: Tensor) -> tuple[Tensor, ...]:
        """Return the state, the carry's tensors and the outputs of the step."""
        accepted, problem, plan = self.accepted, self.problem, self.plan
        count = len(start) - len(self.tensors)
        (y, *leaves), tensors = start[:count], start[count:]
        f = Again(problem.field, self.tensors, tensors)
        if problem.clock is not None:
            clock = replace(problem.clock, shifts=tensors[-1])
            problem, plan = replace(problem, clock=clock), moving(plan, clock)
        solver: Any = plan.solver
        carry = self._begun(solver, f, y, leaves)
        again = getattr(solver, "replay", None) if solver.one_step else None
        step: Step = (
            solver.step(f, *accepted.span, y, carry, None)
            if again is None
            else again(f, *accepted.span, y, carry, accepted.step.y)
        )
        left = [] if solver.one_step else leaves_of(step.carry)
        made = accepted._replace(y0=y, carry=carry, step=step)
        return (step.y, *left, *self._outputs(problem, plan, f, made))

    def _begun(self, solver: Any, f: Again, y: Tensor, leaves: list[Tensor]) -> Carry:
        """Return the carry at the start of the step."""
        if solver.one_step:
            return solver.init(f, self.accepted.t0, y)
        if self.accepted.fresh and not begun_with(self.plan):
            # The values are those that rejected attempts left, the derivatives those of the start.
            fresh = leaves_of(solver.init(f, self.accepted.t0, y))
            leaves = [
                known.detach() + (own - own.detach())
                for known, own in zip(leaves, fresh, strict=True)
            ]
        return with_leaves(self.accepted.carry, leaves)

    def _outputs(self, problem: Problem, plan: Plan, f: Again, made: Accepted) -> list[Tensor]:
        at: Any = None
        if problem.clock is not None:
            if needs_interpolant(problem, made, tuple(self.rows)):
                at = interpolant(plan.solver, f, made.span, made.y0, made.step)
            return [output_at(problem, row, made, at) for row in self.rows]
        if any(t != made.t1 for t in self.rows.values()):
            at = interpolant(plan.solver, f, made.span, made.y0, made.step)
        return [state_at(made, t, at) for t in self.rows.values()]


def _together(
    step: _Again, seeds: tuple[Tensor, ...], chunk: int | None
) -> tuple[Tensor, ...]:
    """Return the tangents of what a step makes along all directions, `[P, ...]`, at once."""

    def along(*seed: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.func.jvp(step, step.start, seed)[1]
        return found

    found: tuple[Tensor, ...] = torch.func.vmap(along, randomness="same", chunk_size=chunk)(*seeds)
    return found


def _alone(step: _Again, seed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the tangents along one direction."""
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, step.start, seed)
        return tuple(_tangent(x) for x in step(*duals))


def _tangent(x: Tensor) -> Tensor:
    primal, tangent = forward_ad.unpack_dual(x)
    return torch.zeros_like(primal) if tangent is None else tangent
