"""Derivatives of a state in several directions at once, carried from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core import UnsupportedError
from ode_core.capture import Watched
from ode_core.clock import moving
from ode_core.interpolation import interpolant
from ode_core.loops.collected import needs_interpolant, output_at, state_at
from ode_core.replay import Again, Replay
from ode_solvers.gradients.basis import Basis
from ode_solvers.gradients.leaves import leaves_of, with_leaves
from ode_solvers.gradients.rewind import begun_with, shifts_of

if TYPE_CHECKING:
    from ode_core import Plan
    from ode_core.field import Field
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem
    from ode_core.protocols import Carry, Step


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
    _carry: Sequence[Tensor] = field(default_factory=list)
    _rows: dict[int, Tensor] = field(default_factory=dict)
    _vectorised: bool = True

    def __post_init__(self) -> None:
        # An implicit step reads values, which tensors of torch.func do not show.
        self._vectorised = getattr(self.plan.solver, "transforms", True)

    def take(self, accepted: Accepted, rows: dict[int, float]) -> None:
        """Go through an accepted step; `rows` are those of the states it answered for, by time."""
        self.basis.meet(self.watched.tensors)
        if not self.basis.count:
            return
        one_step = self.plan.solver.one_step
        if self._state is None:
            self._check(accepted.t0, accepted.y0)
        self._state = self._grown(self._state, self.problem.y0)
        if not one_step:
            begun = begun_with(self.plan) or leaves_of(accepted.carry)
            known: Sequence[Tensor | None] = self._carry or [None] * len(begun)
            self._carry = [self._grown(*pair) for pair in zip(known, begun, strict=True)]
        self.replay.settle()
        with self.replay.again(()):
            tensors = (*self._captured(), *shifts_of(self.problem))
            step = _Again(self.problem, self.plan, accepted, rows, tensors)
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

    def _check(self, t: float, y: Tensor) -> None:
        """Raise UnsupportedError where f's forward derivative is not what its backward one says."""
        tensors = self._captured()
        self.replay.settle()
        with self.replay.again(tensors) as again, _explained():
            if not agrees(again, self.problem.field, t, y, tensors):
                raise UnsupportedError(
                    "the forward derivative of f is not its backward one, as where f detaches its "
                    "state or differentiates within itself; take gradient='checkpoint'"
                )

    def _captured(self) -> tuple[Tensor, ...]:
        """Return the tensors that f depends on beside its state."""
        own = (self.problem.y0, *shifts_of(self.problem), *begun_with(self.plan))
        return tuple(x for x in self.basis.tensors if not any(x is other for other in own))

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
        with _explained():
            single = [_alone(step, seed) for seed in zip(*seeds, strict=True)]
        return [torch.stack(parts) for parts in zip(*single, strict=True)]


@dataclass(frozen=True, eq=False)
class _Again:
    """A step made again, as a function of where it starts and of what it depends on."""

    problem: Problem
    plan: Plan
    accepted: Accepted
    rows: dict[int, float]
    tensors: tuple[Tensor, ...]  # those of f, and last, where there is a clock, its shifts

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


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(
            "gradient='forward' needs forward derivatives of f, and torch has none for something "
            f"that it does: {str(error).splitlines()[0]:.200}; take gradient='checkpoint'"
        ) from error


def agrees(again: Again, field: Field, t: float, y: Tensor, tensors: tuple[Tensor, ...]) -> bool:
    """Return whether f's derivative along one direction is the same forwards and backwards.

    `again` is the field to go back through, with stand-ins for `tensors`.
    """
    with torch.enable_grad():
        start = y.detach().requires_grad_()
        slope = again(t, start)
    inputs, weight = (start, *again.tensors), _waves(slope)
    pulled: Any = [None] * len(inputs)
    if slope.requires_grad:
        pulled = torch.autograd.grad(slope, inputs, weight, allow_unused=True)
    along = [_waves(x) for x in inputs]
    parts = [_inner(g, v) for g, v in zip(pulled, along, strict=True) if g is not None]
    with forward_ad.dual_level():
        plain = [x.detach() for x in inputs]
        dual, *duals = map(forward_ad.make_dual, plain, along)
        pushed = _inner(weight, _tangent(Again(field, tensors, tuple(duals))(t, dual)))
    exact = not torch.is_autocast_enabled(y.device.type)
    slack = torch.finfo(y.dtype).eps ** 0.5 if exact else 1e-2
    return abs(pushed - sum(parts)) <= slack * (abs(pushed) + sum(map(abs, parts)))


def _waves(x: Tensor) -> Tensor:
    return torch.arange(1.0, 1.0 + x.numel(), device=x.device).sin().to(x.dtype).reshape(x.shape)


def _inner(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).real.sum().detach())


def _together(step: _Again, seeds: tuple[Tensor, ...], chunk: int | None) -> tuple[Tensor, ...]:
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
