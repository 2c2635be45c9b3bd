"""The front door: checks what was given, turns names into objects, and hands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ode_core import registry
from ode_core.compiled import Compile, asked_for, solve_compiled, unbatched
from ode_core.control import FixedSteps
from ode_core.errors import ArgumentError, SolveError
from ode_core.events import Event, as_events, later
from ode_core.loops.graphs import Graph
from ode_core.planning import Asked, check_per_sample, make_plan
from ode_core.problem import Given, Problem, build
from ode_core.protocols import Controller, GradientMethod, Plan, Solver
from ode_core.results import result, sample_result
from ode_core.sample_segments import solve_samples
from ode_core.samples import SampleProblem, build_samples
from ode_core.segments import solve_pieces
from ode_core.solution import Solution, State
from ode_core.traced import traceable
from ode_core.verify import Verified

DEFAULT_SOLVER = "dopri5"
DEFAULT_GRADIENT = "direct"
STEPPINGS = ("shared", "per_sample")


@traceable
def solve(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[Any],
    *,
    solver: str | Solver = DEFAULT_SOLVER,
    gradient: str | GradientMethod = DEFAULT_GRADIENT,
    rtol: float | Any | None = None,
    atol: float | Any | None = None,
    dt: float | Tensor | None = None,
    stepping: str = "shared",
    controller: Controller | FixedSteps | None = None,
    max_steps: int = 100_000,
    args: tuple[Any, ...] = (),
    jump_times: Tensor | Sequence[float] | None = None,
    event: Event | Sequence[Event] | None = None,
    integrand: Callable[..., Any] | None = None,
    dense: bool = False,
    record_steps: bool = False,
    time_dtype: torch.dtype | None = None,
    on_failure: str = "raise",
    verify: bool = False,
    compile: bool | str | Compile = False,
    graph: bool | Graph = False,
) -> Solution:
    """Solve dy/dt = f(t, y), y(t[0]) = y0, and return the states at the times `t`.

    Args:
        f: `f(t, y, *args) -> dy/dt`; `t` is a 0-d tensor, or `[B]` with per-sample steps, `y` and
            the result have the structure, shapes and dtype of `y0`.
        y0: a floating-point or complex tensor of any shape, or a tuple, list or dict of tensors of
            one dtype on one device; or the `state` of an earlier solution, to go on from it.
        t: `[T]`, T at least 1, rising or falling; the first is the time of `y0`. With per-sample
            steps also `[B, T]`, padded at the end of a row with NaN. The clock is float64 whatever
            the state is.
        solver: a registered name or a Solver.
        gradient: a registered name or a GradientMethod.
        rtol: relative tolerance of an adaptive solve, a number or something that broadcasts to the
            state, or a matching structure; default 1e-5.
        atol: absolute tolerance, likewise; default 1e-6.
        dt: step of a fixed-step solve (the last one shorter), or first step of an adaptive one;
            with per-sample steps also `[B]`.
        stepping: "shared", one step size for the whole state, or "per_sample": every tensor of the
            state has its batch in dim 0, and each sample its own steps, tolerance (`[B]` tensors),
            times, direction and failure. Finished samples leave the batch where f allows it.
        controller: a Controller in place of the default, or FixedSteps for an adaptive solver.
        max_steps: most attempted steps.
        args: handed on to `f`; gradients flow into tensors in it.
        jump_times: `[J]` times where `f` is not smooth; steps end there and begin anew after it.
            With per-sample steps also `[B, J]`, padded with NaN.
        event: an Event or a list of them.
        integrand: `g(t, y, *args) -> Tensor`, whose integrals from the start to every time are
            `solution.integrals`; they have no part in error control.
        dense: keep what `solution.interpolate` needs.
        record_steps: keep every attempted step in `solution.steps`.
        time_dtype: dtype in which `f` receives `t`; default: the state's real dtype.
        on_failure: "raise", or "return" for a solution with its status, one a sample with
            per-sample steps, and NaN after the failure.
        verify: compare the gradients with those by "direct" in the first backward pass, and give a
            GradientWarning with the relative error where they differ (see Verified).
        compile: True makes the steps of an explicit solver, with f in them, into programs of
            torch.compile when they are first taken, and the whole solve where it can be one; "auto"
            does where that is faster, by one measurement for each f and shape of state; or a
            Compile. `solution.compiled` says what was done.
        graph: keep the step loop on the device, for solves without gradients: on CUDA as CUDA
            graphs, in which f must not wait for the device (see Graph).

    Raises:
        ArgumentError: for an argument, or a combination of them, that cannot be used.
        UnsupportedError: for a solver or gradient that cannot do what is asked.
        UnknownNameError: for a solver or gradient that no installed package registers.
        SolveError: where the solve cannot be finished; it carries the partial solution.

    """
    _check_words(on_failure, stepping)
    start = y0 if isinstance(y0, State) else None
    given = Given(args, as_events(event), integrand)
    stepper: Solver = registry.solvers.shared(solver) if isinstance(solver, str) else solver
    method: GradientMethod = (
        registry.gradients.shared(gradient) if isinstance(gradient, str) else gradient
    )
    _check_objects(stepper, method)
    method = Verified(method) if verify else method
    shared = stepping == "shared"
    if not shared:
        check_per_sample(stepper, method, controller)
    prepare: Callable[..., Problem | SampleProblem] = build if shared else build_samples
    problem = prepare(
        f,
        y0.y if start is not None else y0,
        t,
        given=given,
        jump_times=jump_times,
        time_dtype=time_dtype,
    )
    _check_start(start, problem)
    if start is not None and start.delay is not None and torch.is_grad_enabled():
        problem = later(problem, start.delay)
    asked = Asked(controller, rtol, atol, dt, max_steps, dense, record_steps, start, graph)
    plan = make_plan(stepper, problem, asked)
    method.check(problem, plan)  # type: ignore[arg-type]  # or one of samples
    solution, failure = _solved(problem, plan, method, t, asked_for(compile))
    if failure and on_failure == "raise":
        raise SolveError(failure, solution)
    return solution


def _solved(
    problem: Problem | SampleProblem,
    plan: Plan,
    method: GradientMethod,
    t: Any,
    programs: Compile | None,
) -> tuple[Solution, str]:
    if programs is not None:
        if plan.graph is not None:
            raise ArgumentError("compile and graph are two ways to make a solve faster; take one")
        shared = unbatched(problem)
        whole, made = solve_compiled(programs, shared, plan, method)
        return result(shared, plan, method, whole, t, made)
    if isinstance(problem, SampleProblem):
        rows = solve_samples(problem, plan, method)
        return sample_result(problem, plan, method, rows, t)
    return result(problem, plan, method, solve_pieces(problem, plan, method), t)


def _check_words(on_failure: str, stepping: str) -> None:
    if on_failure not in ("raise", "return"):
        raise ArgumentError(f"on_failure is 'raise' or 'return'; got {on_failure!r}")
    if stepping not in STEPPINGS:
        raise ArgumentError(f"stepping is 'shared' or 'per_sample'; got {stepping!r}")


# Types that were seen to fit: to ask a protocol takes longer than a step.
_FITTING: set[type] = set()


def _check_objects(solver: Any, gradient: Any) -> None:
    if type(solver) in _FITTING and type(gradient) in _FITTING:
        return
    if not isinstance(solver, Solver):
        raise ArgumentError(
            f"solver is a registered name or an object with init and step; got {solver!r:.60}"
        )
    if not isinstance(gradient, GradientMethod):
        raise ArgumentError(
            f"gradient is a registered name or an object with check and solve; got {gradient!r:.60}"
        )
    _FITTING.update((type(solver), type(gradient)))


def _check_start(start: State | None, problem: Problem | SampleProblem) -> None:
    if start is None:
        return
    first = problem.start if isinstance(problem, SampleProblem) else problem.times[0]
    ended = torch.as_tensor(start.t, dtype=torch.float64)
    began = torch.as_tensor(first, dtype=torch.float64, device=ended.device)
    if ended.shape != began.shape or not bool((ended == began).all()):
        raise ArgumentError(
            f"a solve that goes on from a state starts at its time, {start.t}; got t[0] = {first}"
        )
