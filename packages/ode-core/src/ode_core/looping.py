"""A whole adaptive solve as one program: the loop of `march`, of torch operations alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.control import first_steps, reach
from ode_core.programs import Program, TracedField, TracedTolerance
from ode_core.solution import End, Status, Trajectory
from ode_core.stepping import given_of, number

if TYPE_CHECKING:
    from ode_core.problem import Problem
    from ode_core.protocols import Controller, Plan, Solver
    from ode_core.stepping import Allowed, Given

_STATUSES = (Status.SUCCESS, Status.STEP_TOO_SMALL, Status.NOT_FINITE, Status.MAX_STEPS)
_SMALL, _BLOWN = _STATUSES.index(Status.STEP_TOO_SMALL), _STATUSES.index(Status.NOT_FINITE)


@dataclass(frozen=True, eq=False)
class WholeSolve:
    """In the place of the gradient method where there is no gradient: the loop as one program."""

    program: Program
    allowed: Allowed
    name: str = "direct"
    exact: bool = True

    def check(self, problem: Problem, plan: Plan) -> None:
        """Refuse nothing: what is not served does not come here."""

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve from the first of two times to the second.

        Raises NeedsGradientError where something that f uses requires one.
        """
        span, most = number(*problem.span), number(float(plan.max_steps))
        ys, carry, numbers = self.program(given_of(problem), span, problem.y0, self.allowed, most)
        t, dt, accepted, rejected, code, *memory = numbers.tolist()
        begin, each = self.program.calls
        stats = problem.stats
        stats.accepted, stats.rejected = int(accepted), int(rejected)
        stats.f_calls += begin + each * (stats.accepted + stats.rejected)
        status = _STATUSES[int(code)]
        rows = 1 if status.failed else 2
        return Trajectory(
            ys[:rows],
            stats,
            status,
            t if status.failed else math.nan,
            times=problem.times[:rows],
            wanted=(0, 1)[:rows],
            end=End(dt, carry, _like(plan.controller, memory)),
        )


def loop_program(
    solver: Solver,
    controller: Controller,
    given: Given,
    span: Tensor,
    y: Tensor,
    allowed: Any,
    most: Tensor,
) -> tuple[Tensor, Any, Tensor]:
    """Return the states at the start and where it ended, the carry there, and numbers.

    It is a program's text.

    `span` is `[2]` float64, `most` `[]` the most attempts. The numbers are `[n]` float64: the time
    reached, the next step's size, accepted and rejected steps, the status, and the controller's
    memory. Whatever is chosen is what `march` chooses.
    """
    f, args, layout, dtypes = given
    field = TracedField(f, layout, y, dtypes, args)
    # What the loop uses must share no memory.
    tolerance = TracedTolerance(allowed[0].clone(), allowed[1].clone())
    t0, last = span[0].clone(), span[1].clone()
    carry = solver.init(field, t0, y)
    dt = _first(solver, field, (t0, last), y, carry, tolerance)
    leaves, spec = pytree.tree_flatten(carry)
    kept, memory_spec = pytree.tree_flatten(controller.init())
    memory = [torch.tensor(x, dtype=_dtype(x)) for x in kept]
    attempt = _Attempt(solver, controller, field, last, torch.sign(last - t0), tolerance)

    def goes_on(t: Tensor, dt: Tensor, counts: Tensor, code: Tensor, *rest: Tensor) -> Tensor:
        return (t != last) & (code == 0) & (counts.sum() < most)

    def body(t: Tensor, dt: Tensor, counts: Tensor, code: Tensor, y: Tensor, *rest: Tensor) -> Any:
        before = pytree.tree_unflatten(rest[: len(memory)], memory_spec)
        carry = pytree.tree_unflatten(rest[len(memory) :], spec)
        return attempt(t, dt, counts, code, y, before, carry)

    counts, code = torch.zeros(2, dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    clones = [x.clone() for x in leaves]
    t, dt, counts, code, end, *rest = torch.while_loop(
        goes_on, body, (t0, dt, counts, code, y.clone(), *memory, *clones)
    )
    code = torch.where((t != last) & (code == 0), _STATUSES.index(Status.MAX_STEPS), code)
    numbers = [t, dt, *counts.unbind(), code, *rest[: len(memory)]]
    carry = pytree.tree_unflatten(rest[len(memory) :], spec)
    return torch.stack((y, end)), carry, torch.stack([x.to(torch.float64) for x in numbers])


class _Attempt(NamedTuple):
    """One turn of the loop: a step, the verdict on it, and what follows from that."""

    solver: Solver
    controller: Controller
    field: TracedField
    last: Tensor
    direction: Tensor
    tolerance: TracedTolerance

    def __call__(
        self,
        t: Tensor,
        dt: Tensor,
        counts: Tensor,
        code: Tensor,
        y: Tensor,
        memory: Any,
        carry: Any,
    ) -> tuple[Tensor, ...]:
        """Return what goes round the loop, after a step from `t` of the size `dt`."""
        controller, solver, last = self.controller, self.solver, self.last
        least = getattr(controller, "dt_min", 0.0)
        most = getattr(controller, "dt_max", math.inf)
        dt = dt.clamp(least, most)
        t1 = t + self.direction * dt
        cut = (t1 - last) * self.direction > -reach(dt, most)
        t1 = torch.where(cut, last, t1)
        step = solver.step(self.field, t, t1, y, carry, self.tolerance)
        order = getattr(solver, "error_order", solver.order)
        error: Any = step.error
        error = torch.where((dt <= least) & ~error.isinf(), error.clamp(max=1.0), error)
        accept, factor, memory = controller.judge(error, order, memory)
        taken = torch.minimum(dt, (t1 - t).abs())
        size = taken * factor
        size = torch.where(accept & cut & (factor >= 1.0), torch.maximum(dt, size), size)
        reached = torch.where(accept, t1, t)
        ahead = torch.nextafter(reached, self.direction * math.inf)
        small = (size < 10.0 * (ahead - reached).abs()) & ~(accept & cut)
        blown = error.isinf()
        failed = torch.where(blown, _BLOWN, _SMALL)
        code = torch.where(small | (blown & (taken <= least)), failed, code)
        retry = carry if step.retry is None else step.retry
        pairs = zip(pytree.tree_leaves(step.carry), pytree.tree_leaves(retry), strict=True)
        return (
            reached,
            size,
            counts + torch.stack((accept, ~accept)),
            code,
            torch.where(accept, step.y, y),
            *pytree.tree_leaves(memory),
            *(torch.where(accept, new, old) for new, old in pairs),
        )


def _first(
    solver: Solver,
    field: TracedField,
    span: tuple[Tensor, Tensor],
    y: Tensor,
    carry: Any,
    tolerance: TracedTolerance,
) -> Tensor:
    slope = getattr(solver, "slope", None)
    held = slope(carry) if slope is not None else None
    if held is None:
        held = field(span[0], y)
    return first_steps(field, span, y, held, solver.order, tolerance)


def _like(controller: Any, numbers: list[float]) -> Any:
    """Return a controller's memory from its numbers."""
    start = controller.init()
    if isinstance(start, tuple) and not any(isinstance(x, tuple | list | dict) for x in start):
        return tuple([type(x)(number) for x, number in zip(start, numbers, strict=True)])
    leaves, spec = pytree.tree_flatten(start)
    kept = [type(x)(number) for x, number in zip(leaves, numbers, strict=True)]
    return pytree.tree_unflatten(kept, spec)


def _dtype(x: Any) -> torch.dtype:
    return torch.bool if isinstance(x, bool) else torch.float64
