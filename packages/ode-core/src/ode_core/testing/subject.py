"""The solver under test: what it claims, and how to run it as it wants to be run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from ode_core import registry
from ode_core.api import solve
from ode_core.control import FixedSteps
from ode_core.field import Field
from ode_core.problem import Given, build
from ode_core.protocols import Solver, Step
from ode_core.records import SolverRecord
from ode_core.solution import Solution
from ode_core.testing.results import attempted
from ode_core.tolerance import Tolerance

MEMBERS = ("name", "order", "adaptive", "implicit", "one_step", "init", "step")
STEPS = 16


@dataclass(frozen=True, eq=False)
class Subject:
    """A solver under test.

    `record` is what a plugin says of it (None for an object that was handed over), `made` the
    object, `cause` why it cannot be checked.
    """

    name: str
    record: SolverRecord | None
    made: Any
    cause: str = ""

    @classmethod
    def of(cls, solver: str | Solver) -> Subject:
        """Return the subject behind a registered name or an object; UnknownNameError for others."""
        if not isinstance(solver, str):
            name = str(getattr(solver, "name", type(solver).__name__))
            return cls(name, None, solver, _lacking(solver))
        record = registry.solvers[solver]
        made, cause = attempted(lambda: registry.solvers.create(solver))
        return cls(solver, record, made, cause or _lacking(made))

    @property
    def solver(self) -> Solver:
        """The object under test."""
        return cast("Solver", self.made)

    def says(self, claim: str, otherwise: bool) -> bool:
        """Return what the object, or else the record, says of itself, or else what is usual."""
        return bool(getattr(self.made, claim, getattr(self.record, claim, otherwise)))

    @property
    def pair(self) -> bool:
        """Whether it takes no other state than a pair (q, v) with q' = v."""
        return self.says("takes_pairs", False)

    @property
    def per_sample(self) -> bool:
        """Whether it takes per-sample steps."""
        return self.says("per_sample", False)

    @property
    def stiff(self) -> bool:
        """Whether it stays bounded where h lambda is far left of zero; implicit ones should."""
        return self.says("stiff", bool(self.made.implicit))

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through its steps."""
        return self.says("differentiable", True)

    @property
    def steps_fixed(self) -> bool:
        """Whether it runs with steps that are given, and does not choose its own within them."""
        return self.says("fixed_steps", not self.says("chooses_steps", False))

    @property
    def slack(self) -> float:
        """Relative difference that rounding, or the solution of equations, may make."""
        return 1e-7 if self.made.implicit else 1e-11

    @property
    def tol(self) -> float:
        """The tolerance of an ordinary solve; order 2 takes thousands of steps to six digits."""
        return 1e-4 if self.made.order <= 2 else 1e-6

    def fixed(self, f: Any, y0: Any, t: Any, steps: int, **options: Any) -> Solution:
        """Solve with that many equal steps; options are those of `ode_core.solve`."""
        dt = abs(float(t[-1]) - float(t[0])) / steps
        if self.made.adaptive:
            options["controller"] = FixedSteps()
        return solve(f, y0, t, solver=self.made, dt=dt or 1.0, **options)

    def controlled(self, f: Any, y0: Any, t: Any, tol: float, **options: Any) -> Solution:
        """Solve to a tolerance, relative and absolute; options are those of `ode_core.solve`."""
        return solve(f, y0, t, solver=self.made, rtol=tol, atol=tol, **options)

    def solve(self, f: Any, y0: Any, t: Any, **options: Any) -> Solution:
        """Solve the way that a user would: to a tolerance if the solver has an estimate."""
        if self.made.adaptive:
            return self.controlled(f, y0, t, self.tol, **options)
        return self.fixed(f, y0, t, STEPS, **options)

    def gridded(self, f: Any, y0: Any, t: Any, **options: Any) -> Solution:
        """Solve with few equal steps, or to a tolerance if the solver does not take such steps."""
        if self.steps_fixed:
            return self.fixed(f, y0, t, STEPS, **options)
        return self.controlled(f, y0, t, self.tol, **options)

    def tolerance(self) -> Tolerance | None:
        """Return what `step` is given where no error is asked for: nothing, if that will do."""
        return None if self.steps_fixed else Tolerance(self.tol, self.tol)

    def walk(self, f: Any, y0: Any, nodes: Sequence[float]) -> Iterator[Walked]:
        """Step from node to node by the protocol alone."""
        problem = build(f, y0, [nodes[0], nodes[-1]], given=Given())
        field, y, tolerance = problem.field, problem.y0, self.tolerance()
        carry = self.made.init(field, nodes[0], y)
        for t0, t1 in pairwise(nodes):
            step = self.made.step(field, t0, t1, y, carry, tolerance)
            yield Walked(field, t0, t1, y, carry, step)
            y, carry = step.y, step.carry

    def attempt(self, taken: Walked, t1: float) -> Step:
        """Attempt the step after one that was taken, to t1, with a tolerance."""
        step: Step = self.made.step(
            taken.field, taken.t1, t1, taken.step.y, taken.step.carry, Tolerance(self.tol, self.tol)
        )
        return step


def _lacking(solver: Any) -> str:
    lacking = [member for member in MEMBERS if not hasattr(solver, member)]
    return f"the {type(solver).__name__} has no {', no '.join(lacking)}" if lacking else ""


@dataclass(frozen=True, eq=False)
class Walked:
    """One step that a check took itself, with all that it was given."""

    field: Field
    t0: float
    t1: float
    y0: Tensor
    carry: Any
    step: Step


def adaptive(subject: Subject) -> str:
    """Need: the solver has an error estimate."""
    return "" if subject.made.adaptive else "it has no error estimate"


def fixed_steps(subject: Subject) -> str:
    """Need: the solver runs with given steps."""
    return "" if subject.steps_fixed else "it chooses its steps itself (fixed_steps = False)"


def chooses_steps(subject: Subject) -> str:
    """Need: the solver does not run with given steps."""
    return "it takes given steps" if subject.steps_fixed else ""


def stiff(subject: Subject) -> str:
    """Need: the solver is for stiff problems."""
    return "" if subject.stiff else "it is not for stiff problems"


def differentiable(subject: Subject) -> str:
    """Need: gradients flow through the solver's steps."""
    return "" if subject.differentiable else "it says that it is not differentiable"


def not_differentiable(subject: Subject) -> str:
    """Need: the solver says that no gradient flows through it."""
    return "it says that it is differentiable" if subject.differentiable else ""


def one_tensor(subject: Subject) -> str:
    """Need: the state is one tensor."""
    return "it takes pairs (q, v) only" if subject.pair else ""


def registered(subject: Subject) -> str:
    """Need: the solver was given by its registered name."""
    return "" if subject.record is not None else "it was given as an object, not by a name"


def rows(subject: Subject) -> str:
    """Need: the solver takes per-sample steps."""
    return "" if subject.per_sample else "it does not say per_sample = True"


def one_step(subject: Subject) -> str:
    """Need: the solver says that its carry follows from the state alone."""
    return "" if subject.made.one_step else "it does not say one_step = True"


def cuda(subject: Subject) -> str:
    """Need: a GPU to run on."""
    return "" if torch.cuda.is_available() else "needs a CUDA device"


def offers(member: str) -> Callable[[Subject], str]:
    """Return the need that the solver has an optional member."""

    def need(subject: Subject) -> str:
        return "" if hasattr(subject.made, member) else f"it has no {member}"

    return need
