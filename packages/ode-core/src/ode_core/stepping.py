"""Steps as programs: a solver whose every step, f included, is one program of torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.errors import UnsupportedError
from ode_core.layout import Layout
from ode_core.programs import Program, TracedField, TracedTolerance
from ode_core.protocols import Carry, Solver, Step

if TYPE_CHECKING:
    from ode_core.problem import Problem
    from ode_core.tolerance import Tolerance

Allowed = Tensor | tuple[Tensor, ...] | None
# f, its further arguments, the layout of the state, and the dtypes of time and state.
Given = tuple[Any, tuple[Any, ...], Layout, tuple[torch.dtype, torch.dtype]]


@dataclass(frozen=True, eq=False)
class CompiledSolver:
    """A solver in the place of another, whose steps are programs.

    `dense` keeps what the solution within a step needs, which costs the writing of every slope.
    `allowed` are the tolerances as tensors, in whose place others need no other program. The rest
    is the solver's own.
    """

    base: Solver
    program: Program
    dense: bool
    allowed: Allowed
    given: Given
    # A program calls f itself, and knows nothing of a clock.
    moving_times: bool = False

    @property
    def name(self) -> str:
        """The solver's name."""
        return self.base.name

    @property
    def order(self) -> int:
        """The solver's order."""
        return self.base.order

    @property
    def adaptive(self) -> bool:
        """Whether the solver estimates its error."""
        return self.base.adaptive

    @property
    def implicit(self) -> bool:
        """Whether the solver's steps solve equations."""
        return self.base.implicit

    @property
    def one_step(self) -> bool:
        """Whether the solver's `init` rebuilds the carry exactly."""
        return self.base.one_step

    @property
    def diagnose(self) -> Callable[[Any, Step], Any] | None:
        """What the solver notices, where a step keeps what it looks at."""
        return getattr(self.base, "diagnose", None) if self.dense else None

    def __getattr__(self, name: str) -> Any:
        # What a solver may have beside the protocol.
        return getattr(self.base, name)

    def init(self, field: Any, t: Any, y: Tensor) -> Carry:
        """Return the solver's own carry, made outside of the program.

        Raises UnsupportedError where f draws random numbers.
        """
        before = field.calls
        carry = self.base.init(field, t, y)
        if field.calls > before and field.draws:
            raise UnsupportedError(
                "f draws random numbers, which would be others at every evaluation within a "
                "program; solve without compile"
            )
        return carry

    def step(
        self,
        field: Any,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1 as the solver does, in one program."""
        allowed = None if tolerance is None else self.allowed
        if torch.is_grad_enabled() and not y.requires_grad and _require(carry):
            # The next state will, too: one program serves both.
            y = y.detach().requires_grad_()
        times = torch.tensor((t0, t1), dtype=torch.float64)
        y1, error, after, dense, retry = self.program(
            self.given, times, y, carry, allowed, self.dense
        )
        field.calls += self.program.calls[1]
        return Step(y1, error, after, dense, retry)


def _require(carry: Carry) -> bool:
    return any(x.requires_grad for x in pytree.tree_leaves(carry) if isinstance(x, Tensor))


def step_program(
    solver: Solver,
    given: Given,
    times: Tensor,
    y: Tensor,
    carry: Carry,
    allowed: Allowed,
    dense: bool,
) -> tuple[Any, ...]:
    """Return what a step from `times[0]` to `times[1]`, `[2]` float64, gives: a program's text."""
    f, args, layout, dtypes = given
    field = TracedField(f, layout, y, dtypes, args)
    tolerance = None if allowed is None else TracedTolerance(allowed[0], allowed[1])
    step = solver.step(field, times[0], times[1], y, carry, tolerance)
    return step.y, step.error, step.carry, step.dense if dense else None, step.retry


def given_of(problem: Problem) -> Given:
    """Return what a program needs to know of a problem beside its numbers."""
    field = problem.field
    return field.f, field.args, field.layout, (problem.time_dtype, problem.dtype)


def as_tensors(tolerance: Tolerance | None) -> Allowed:
    """Return rtol and atol as tensors, `[2]` if they are numbers: one program serves them all."""
    if tolerance is None:
        return None
    rtol, atol = tolerance.rtol, tolerance.atol
    if isinstance(rtol, float) and isinstance(atol, float):
        return number(rtol, atol)
    wide: Any = [torch.as_tensor(x, dtype=torch.float64) for x in (rtol, atol)]
    return tuple(wide)


@lru_cache(maxsize=256)
def number(*x: float) -> Tensor:
    """Return a number as `[]`, several as `[n]`, float64: for reading alone, made once."""
    with torch.inference_mode(False):
        return torch.tensor(x[0] if len(x) == 1 else x, dtype=torch.float64)
