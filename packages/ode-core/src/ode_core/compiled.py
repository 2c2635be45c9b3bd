"""Compiled solves: which parts are made into programs of torch.compile, and whether it pays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ode_core.control import FixedSteps
from ode_core.errors import ArgumentError, UnsupportedError
from ode_core.knots import found_in
from ode_core.looping import WholeSolve, loop_program
from ode_core.problem import Problem
from ode_core.programs import NeedsGradientError, Program, Same, calls_of, found
from ode_core.protocols import GradientMethod, Plan, Solver
from ode_core.samples import SampleProblem
from ode_core.segments import Whole, solve_pieces
from ode_core.solution import Compiled, Stats
from ode_core.stepping import CompiledSolver, as_tensors, given_of, step_program
from ode_core.transforms import transformed

PARTS = ("step", "solve")
_TRIALS = 3
_GRADIENT = (
    "something that f uses requires a gradient, which a program of the whole solve does not carry; "
    "solve within torch.no_grad(), or take compile=True"
)


@dataclass(frozen=True)
class Compile:
    """What of a solve becomes a program of torch.compile, made once for an f, a shape and a dtype.

    `part` is "step", each attempted step with its calls of f, or "solve", the whole loop, which
    serves a solve over two times by an adaptive solver, without gradients; None takes the whole
    loop where it serves. `backend` is one of torch.compile's. With `measured` the program is used
    where it was faster than the solve without, when both were tried once.
    """

    part: str | None = None
    backend: str | Callable[..., Any] = "inductor"
    measured: bool = False

    def __post_init__(self) -> None:
        if self.part not in (None, *PARTS):
            raise ArgumentError(f"part is 'step', 'solve' or None; got {self.part!r}")


def asked_for(compile: Any) -> Compile | None:
    """Return what the argument `compile` asks for; raises ArgumentError for anything else."""
    if isinstance(compile, Compile):
        return compile
    if isinstance(compile, bool):
        return Compile() if compile else None
    if compile == "auto":
        return Compile(measured=True)
    raise ArgumentError(f"compile is True, False, 'auto' or a Compile; got {compile!r:.60}")


@dataclass(frozen=True, eq=False)
class _Way:
    """How to solve: with which objects, and which part of it is a program."""

    method: GradientMethod
    plan: Plan
    part: str = "nothing"
    program: Program | None = None

    def made(self, seconds: Mapping[str, float] | None = None, reason: str = "") -> Compiled:
        """Return the report on it."""
        count = self.program.made if self.program else 0
        return Compiled(self.part, count, seconds or {}, reason)


def solve_compiled(
    asked: Compile, problem: Problem, plan: Plan, method: GradientMethod
) -> tuple[Whole, Compiled]:
    """Solve by programs, and return what was compiled beside what `solve_pieces` returns.

    Raises ArgumentError for a combination that no program serves, and UnsupportedError where no
    program can be made of f.
    """
    _check(plan.solver, method)
    maker = _Maker(asked, problem, plan, method)
    if not asked.measured:
        way, whole = _first_that_serves(maker.ways(asked.part), problem)
        return whole, way.made()
    key = ("choice", *maker.key)
    if key not in maker.kept:
        maker.kept[key] = _fastest(maker)
    part, seconds, reason = maker.kept[key]
    if part:
        try:
            way, whole = _first_that_serves(maker.ways(part), problem)
            return whole, way.made(seconds)
        except UnsupportedError as error:
            # f has become what no program serves since it was measured.
            vars(problem.stats).update(vars(Stats()))
            reason = str(error)
    return solve_pieces(problem, plan, method), maker.plain.made(seconds, reason)


def _check(solver: Solver, method: GradientMethod) -> None:
    if method.name != "direct":
        raise ArgumentError(
            f"compile serves gradient='direct', not {method.name!r}; drop one of the two"
        )
    if not getattr(solver, "compiles", not solver.implicit):
        raise ArgumentError(
            f"{solver.name} looks at values within a step, so that no program can be made of it; "
            "drop compile, or take an explicit Runge-Kutta method"
        )
    if transformed():
        raise ArgumentError("compile does not go through the transforms of torch.func; drop it")


class _Maker:
    """Makes the ways to solve one problem by programs, which are kept with its f."""

    def __init__(
        self, asked: Compile, problem: Problem, plan: Plan, method: GradientMethod
    ) -> None:
        self.asked, self.problem, self.plan = asked, problem, plan
        self.plain = _Way(method, plan)
        self.kept = found(problem.field.f)
        self.key = _key(asked, problem, plan)

    def ways(self, part: str | None) -> Iterator[_Way]:
        """Yield the ways that may serve, the best first."""
        reason = _not_whole(self.problem, self.plan)
        if part == "solve" and reason:
            raise ArgumentError(
                f"{reason}, which a program of the whole solve does not serve; take compile=True"
            )
        if part != "step" and not reason:
            yield self._whole()
        if part != "solve":
            yield self._steps()

    def _whole(self) -> _Way:
        # Without Python between kernels a small solve takes half the time.
        options = {"cpp_wrapper": True} if self.problem.y0.is_cpu else None
        program = self._program("solve", loop_program, options)
        return _Way(
            WholeSolve(program, as_tensors(self.plan.tolerance)), self.plan, "solve", program
        )

    def _steps(self) -> _Way:
        plan, problem = self.plan, self.problem
        dense = plan.dense or problem.given.asks or len(problem.times) > 2
        program = self._program("dense step" if dense else "step", step_program, None)
        allowed = as_tensors(plan.tolerance)
        stepper = CompiledSolver(plan.solver, program, dense, allowed, given_of(problem))
        return _Way(self.plain.method, replace(plan, solver=stepper), "step", program)

    def _program(self, part: str, function: Any, options: dict[str, Any] | None) -> Program:
        key = (part, *self.key)
        if key not in self.kept:
            plan, whole = self.plan, part == "solve"
            _try(self.problem)
            first = (plan.solver, plan.controller) if whole else (plan.solver,)
            backend, calls = (self.asked.backend, options), _rehearsed(plan)
            self.kept[key] = Program(function, first, backend, calls, differentiable=not whole)
        made: Program = self.kept[key]
        return made


def _not_whole(problem: Problem, plan: Plan) -> str:
    """Return why the whole solve is no program, "" where it is one."""
    controller = plan.controller
    for so, reason in (
        (isinstance(controller, FixedSteps), "the steps are given"),
        (not getattr(controller, "per_sample", False), "the controller takes no tensors"),
        (getattr(plan.solver, "chooses_steps", False), "the solver divides its steps itself"),
        (len(problem.times) != 2 or problem.times[0] == problem.times[-1], "there are other times"),
        (bool(problem.jumps) or problem.given.asks, "there are jumps, events or an integrand"),
        (plan.dense or plan.record_steps, "more than the end is asked for"),
        (plan.start is not None or plan.dt is not None, "the first step is given"),
        (problem.y0.numel() == 0, "there is no state"),
    ):
        if so:
            return reason
    return ""


def _try(problem: Problem) -> None:
    """Evaluate f once outside of a program, where everything that it does wrong is noticed."""
    field = problem.field
    with torch.no_grad(), _buffers_kept(problem):
        field(problem.times[0], problem.y0)
    field.forget()
    if field.draws:
        raise UnsupportedError(
            "f draws random numbers, which within a program would be others at every evaluation "
            "of a solve; solve without compile"
        )


def _rehearsed(plan: Plan) -> tuple[int, int]:
    """Return how often f is called; what objects work out when first asked is then there."""
    controller, tolerance = plan.controller, plan.tolerance
    if not isinstance(controller, FixedSteps) and getattr(controller, "per_sample", False):
        controller.judge(torch.ones((), dtype=torch.float64), plan.solver.order, controller.init())
    return calls_of(plan.solver, tolerance)


def _key(asked: Compile, problem: Problem, plan: Plan) -> tuple[Any, ...]:
    y0, f = problem.y0, problem.field.f
    modes = tuple(module.training for module in found_in(nn.Module, f, problem.given.args))
    return (
        Same.of(plan.solver),
        Same.of(plan.controller),
        Same.of(asked.backend),
        plan.tolerance is None,
        (y0.shape, y0.stride(), y0.dtype, y0.device, problem.time_dtype, problem.dtype),
        torch.is_grad_enabled(),
        modes,
    )


def _first_that_serves(ways: Iterator[_Way], problem: Problem) -> tuple[_Way, Whole]:
    refused: Exception | None = None
    for way in ways:
        program = way.program
        if program is None or program.refused is None:
            try:
                return way, solve_pieces(problem, way.plan, way.method)
            except NeedsGradientError:
                refused = ArgumentError(_GRADIENT)
            except UnsupportedError as error:
                refused = error
            if program is not None and way.part == "solve":
                program.refused = refused
        else:
            refused = program.refused
    assert refused is not None  # there is always a way to try
    raise refused


def _fastest(maker: _Maker) -> tuple[str, dict[str, float], str]:
    """Return the part to compile, "" for none, the seconds that each way took, and a reason."""
    problem, plain = maker.problem, maker.plain
    with _buffers_kept(problem):
        _seconds(problem, plain)
        seconds = {"nothing": min(_seconds(problem, plain) for _ in range(_TRIALS))}
        try:
            way, _ = _first_that_serves(maker.ways(maker.asked.part), _copy(problem))
            _seconds(problem, way)
            seconds[way.part] = min(_seconds(problem, way) for _ in range(_TRIALS))
        except UnsupportedError as error:
            return "", seconds, str(error)
    part = min(seconds, key=lambda part: seconds[part])
    return "" if part == "nothing" else part, seconds, ""


def _copy(problem: Problem) -> Problem:
    """Return the problem with a start, a count and a graph of its own."""
    y0 = problem.y0.detach().requires_grad_(problem.y0.requires_grad)
    return replace(problem, y0=y0, stats=Stats())


def _seconds(problem: Problem, way: _Way) -> float:
    """Return what a solve takes, with its backward pass where there is one."""
    trial = _copy(problem)
    started = time.perf_counter()
    ys = solve_pieces(trial, way.plan, way.method).ys
    if ys.requires_grad:
        modules = found_in(nn.Module, problem.field.f, problem.given.args)
        tensors: list[Tensor] = [x for module in modules for x in module.parameters()]
        tensors += [x for x in pytree.tree_leaves(problem.given.args) if isinstance(x, Tensor)]
        wanted = [x for x in (trial.y0, *tensors) if x.requires_grad]
        torch.autograd.grad(ys.abs().sum(), wanted, allow_unused=True)
    return time.perf_counter() - started


@contextmanager
def _buffers_kept(problem: Problem) -> Iterator[None]:
    """Put back what measuring writes into the buffers of f's modules."""
    modules = found_in(nn.Module, problem.field.f, problem.given.args)
    before = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, was in before:
                buffer.copy_(was)


def unbatched(problem: Problem | SampleProblem) -> Problem:
    """Return a problem with shared steps; raises ArgumentError for one with per-sample steps."""
    if isinstance(problem, SampleProblem):
        raise ArgumentError("compile serves shared steps; drop stepping='per_sample' or compile")
    return problem
