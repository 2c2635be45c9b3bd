"""A solve as part of a program that torch.compile makes: one graph, without a break in it.

Served are given steps, whose number and times are known while the program is made. Whatever looks
at values to decide what to do next cannot be part of a graph, and is run outside of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from ode_core import registry
from ode_core.control import FixedSteps
from ode_core.direct import Direct
from ode_core.errors import ArgumentError, OdeError, SolveError, UnsupportedError
from ode_core.field import Field
from ode_core.planning import Asked, make_plan
from ode_core.problem import Given, Problem, check_callable, posed
from ode_core.programs import calls_of
from ode_core.protocols import Solver
from ode_core.results import result
from ode_core.segments import solve_pieces
from ode_core.solution import Solution, State

_Call = ParamSpec("_Call")

SERVED = (
    "within torch.compile a solve is part of the program where it takes given steps (dt=... or "
    "FixedSteps) of a solver that looks at no values, times as a list of floats, a y0 of tensors, "
    "and gradient='direct', without event, integrand, per-sample steps, verify or compile=; this "
    "one is run outside of the program, which fullgraph=True forbids"
)
UNEXPORTED = (
    "torch.export keeps the steps of a solve, so they have to be known beforehand: take a solver "
    "with fixed steps and dt=..., such as 'rk4', times as a list of floats and gradient='direct', "
    "without event, integrand, per-sample steps, verify or compile="
)
# What a solve that is part of a program leaves at its default.
_UNSERVED = ("stepping", "event", "integrand", "verify", "compile")


def traceable(eager: Callable[_Call, Solution]) -> Callable[_Call, Solution]:
    """Return a solve that within torch.compile becomes part of the program where it can."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(eager).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }

    @wraps(eager)
    def solve(*args: _Call.args, **kwargs: _Call.kwargs) -> Solution:
        if not torch.compiler.is_compiling():
            return eager(*args, **kwargs)
        asked = {**defaults, **dict(zip(("f", "y0", "t"), args, strict=False)), **kwargs}
        solver = _named(asked["solver"])
        unserved = any(asked[name] is not defaults[name] for name in _UNSERVED)
        if unserved or not _static(solver, asked):
            if torch.compiler.is_exporting():
                raise UnsupportedError(UNEXPORTED)
            return _outside(eager, *args, **kwargs)
        return _within(solver, asked)

    return solve


def _static(solver: Solver, asked: dict[str, Any]) -> bool:
    """Return whether the steps are known before anything is solved, and nothing else is asked."""
    given = not solver.adaptive or isinstance(asked["controller"], FixedSteps)
    looks = not getattr(solver, "compiles", not solver.implicit)
    direct = asked["gradient"] == "direct" or isinstance(asked["gradient"], Direct)
    listed = isinstance(asked["t"], Sequence) and not isinstance(asked["y0"], State)
    return given and direct and listed and not looks


def _within(solver: Solver, asked: dict[str, Any]) -> Solution:
    f, t = asked["f"], asked["t"]
    check_callable(f, asked["args"])
    problem: Problem = posed(
        f,
        asked["y0"],
        [float(time) for time in t],
        Given(asked["args"]),
        jumps=[float(time) for time in asked["jump_times"] or ()],
        time_dtype=asked["time_dtype"],
        kind=CountedField,
    )
    names = ("controller", "rtol", "atol", "dt", "max_steps", "dense", "record_steps")
    plan = make_plan(solver, problem, Asked(**{name: asked[name] for name in names}, start=None))
    method = Direct()
    solution, failure = result(problem, plan, method, solve_pieces(problem, plan, method), t)
    if failure and asked["on_failure"] == "raise":
        raise SolveError(failure, solution)
    return solution


class CountedField(Field):
    """The wrapper of f within a program, in which no tensor has a version to check."""

    def __call__(
        self, t: float | Tensor, y: Tensor, mode: AbstractContextManager[Any] | None = None
    ) -> Tensor:
        """Return dy/dt at a time and a packed state, like the state."""
        self.calls += 1
        return self.plain(t, y, mode)


class _Made:
    """Solvers made by name, as attributes: Dynamo reads those one by one, a dict as a whole."""


_MADE = _Made()


def _named(solver: Any) -> Any:
    if not isinstance(solver, str):
        return solver
    if not torch.compiler.is_dynamo_compiling():  # torch.export runs this as it is
        return registry.solvers.shared(solver)
    _make(solver)
    made = getattr(_MADE, solver)
    if made.failure:
        raise ArgumentError(made.failure)
    return made.solver


class _One:
    def __init__(self, record: Any, solver: Any, failure: str) -> None:
        self.record, self.solver, self.failure = record, solver, failure


def _make(name: str) -> bool:
    """Make a solver by name where it is not there yet: called by Dynamo, not traced."""
    known = getattr(_MADE, name, None)
    try:
        record = registry.solvers[name]
        if known is None or known.record != record:
            solver = registry.solvers.shared(name)
            if getattr(solver, "compiles", not solver.implicit):
                # What it works out when it is first asked is then there.
                calls_of(solver, None)
            setattr(_MADE, name, _One(record, solver, ""))
    except OdeError as error:
        setattr(_MADE, name, _One(None, None, str(error)))
    return True


def _outside(eager: Callable[..., Solution], *args: Any, **kwargs: Any) -> Solution:
    beside: Callable[..., Solution] = torch.compiler.disable(eager, reason=SERVED)
    return beside(*args, **kwargs)


# What torch.compiler's decorators set, which take seconds: they import the compiler.
vars(_make)["_dynamo_marked_constant"] = True
vars(_outside)["_torchdynamo_disable"] = True
vars(_outside)["_torchdynamo_disable_msg"] = SERVED
