"""Whether a solve with per-sample steps goes in one launch, and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core import ArgumentError, PluginError
from ode_core.attach import Gradients, attach_all, differentiable
from ode_core.control import FixedSteps, PIDController
from ode_core.loops.sample_outputs import SampleTrajectory
from ode_core.samples import SampleProblem
from ode_core.transforms import hidden, transformed
from ode_solvers.kernels.choose import named
from ode_solvers.tableau import Tableau
from ode_solvers.whole.contract import FieldProgram
from ode_solvers.whole.table import constants

if TYPE_CHECKING:
    from ode_core import Solver
    from ode_core.protocols import GradientMethod, Plan
    from ode_solvers.whole.kernel import Kept, Whole

_METHODS = ("direct",)


def solved_whole(
    table: Tableau, kernel: Any, problem: SampleProblem, plan: Plan, method: GradientMethod
) -> SampleTrajectory | None:
    """Return a solve in one launch, None where it is to go step by step.

    Raises ArgumentError where kernel="whole" was asked for and cannot be had, with the reason.
    """
    asked = getattr(kernel, "name", "") == "whole"
    if not asked and (kernel is not None or not problem.y0.is_cuda):
        return None
    try:
        field = _program(table, problem, plan)
        recorded = differentiable(problem.y0, field.tensors)
        if recorded and method.name not in _METHODS:
            raise ArgumentError(f"gradient={method.name!r} goes from step to step")
        whole: Any = kernel if asked else named("whole")
    except (ArgumentError, PluginError) as error:
        if asked:
            raise ArgumentError(
                f"kernel='whole' cannot solve this: {error}; take kernel=None, which goes step by "
                "step where it must"
            ) from None
        return None
    return _solved(whole, table, field, problem, plan, method)


def _program(table: Tableau, problem: SampleProblem, plan: Plan) -> FieldProgram:
    """Return the field as a program; raises ArgumentError where the solve cannot go whole."""
    for so, reason in _refusals(table, problem, plan):
        if so:
            raise ArgumentError(reason)
    make: Callable[..., FieldProgram] | None = getattr(problem.field.f, "program", None)
    if make is None:
        raise ArgumentError("f is no field of ode_solvers.fields")
    field = make(problem.y0.shape)
    y0 = problem.y0
    width = y0.shape[1] // field.components
    made = constants(table)
    assert made is not None  # one of the refusals
    slopes = len(made.nodes) + 2 + len(made.more_nodes)
    recorded = differentiable(y0, field.tensors)
    refusal = field.refusal(width, slopes, y0.element_size(), recorded=recorded)
    if refusal:
        raise ArgumentError(refusal)
    if any(x.device != y0.device and x.dim() for x in field.tensors):
        raise ArgumentError("the field's parameters are on another device than the state")
    if any(x.dtype != y0.dtype and (x.dim() or x.requires_grad) for x in field.tensors):
        raise ArgumentError("the field's parameters have another dtype than the state")
    return field


def _refusals(table: Tableau, problem: SampleProblem, plan: Plan) -> tuple[tuple[bool, str], ...]:
    y0, controller, start = problem.y0, plan.controller, plan.start
    fixed = isinstance(controller, FixedSteps)
    return (
        (transformed() or hidden(y0) or forward_ad._current_level >= 0,
         "it is within a transform of torch.func, forward differentiation or a compiled program"),
        (y0.dtype not in (torch.float32, torch.float64) or problem.dtype != y0.dtype
         or problem.time_dtype != y0.dtype, "state and time are not both float32 or both float64"),
        (problem.layout.spec is not None or y0.dim() != 2 or not y0.numel(),
         "the state is not one tensor [B, dim]"),
        (torch.is_autocast_enabled(y0.device.type), "autocast is on"),
        (bool(problem.given.args), "f takes args"),
        (problem.given.asks, "there are events or an integrand"),
        (problem.jumps is not None, "there are jump times"),
        (plan.dense or plan.record_steps, "dense or record_steps asks for every step"),
        (plan.graph is not None, "graph=True keeps another loop on the device"),
        (not (fixed or type(controller) is PIDController), "the controller is no PIDController"),
        (isinstance(controller, FixedSteps) and controller.grid is not None, "there is a grid"),
        (start is not None and start.memory is not None, "it goes on with a controller's memory"),
        (constants(table) is None, "the table's error estimate needs the slope at the end"),
    )  # fmt: skip


def _solved(
    whole: Whole,
    table: Tableau,
    field: FieldProgram,
    problem: SampleProblem,
    plan: Plan,
    method: GradientMethod,
) -> SampleTrajectory:
    keep = differentiable(problem.y0, field.tensors)
    kept = whole.solve(table, field, problem, plan, keep=keep)
    trajectory = SampleTrajectory(kept.ys, kept.samples())
    if keep:
        pull = WholePull(whole, table, field, problem, plan, method, kept)
        (trajectory.ys,) = attach_all(method.name, pull, (kept.ys,), problem.y0, field.tensors)
    return trajectory


@dataclass(frozen=True, eq=False)
class WholePull:
    """The backward pass of a whole solve: one launch; a second derivative goes step by step."""

    whole: Whole
    table: Tableau
    field: FieldProgram
    problem: SampleProblem
    plan: Plan
    method: GradientMethod
    kept: Kept

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The starts of the accepted steps, and their times."""
        return self.kept.states, self.kept.spans

    def __call__(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        """Return the gradients of the start and of the field's tensors."""
        del y0
        made = constants(self.table)
        if made is not None:
            calls = made.calls * int(self.kept.log[1].max())
            self.problem.stats.backward_f_calls += calls
        start, found = self.whole.pull(self.table, self.field, self.problem, self.kept, grads[0])
        return start, [x if t.requires_grad else None
                       for x, t in zip(found, tensors, strict=True)]  # fmt: skip

    def twice(
        self, grads: tuple[Tensor, ...], y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> Gradients:
        """Return the same from the steps made again one by one, with a graph."""
        solver: Any = self.plan.solver
        stepwise: Solver = replace(solver, kernel=None if y0.is_cuda else named("cpu"))
        solve: Any = self.method.solve
        ys = solve(replace(self.problem, y0=y0), replace(self.plan, solver=stepwise)).ys
        wanted = [x for x in (y0, *tensors) if x.requires_grad]
        found = iter(
            torch.autograd.grad(ys, wanted, grads[0], create_graph=True, allow_unused=True)
        )
        start, *rest = [next(found) if x.requires_grad else None for x in (y0, *tensors)]
        return start, rest
