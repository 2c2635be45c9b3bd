"""Starting the programs of a whole solve: forwards in one launch, backwards in one more."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ode_core import ArgumentError
from ode_core.control import FixedSteps, PIDController
from ode_core.loops.sample_part import SampleLog
from ode_core.protocols import Plan
from ode_core.samples import SampleProblem
from ode_solvers.kernels.fused import Fused
from ode_solvers.tableau import Tableau
from ode_solvers.whole import expression_programs, mlp_programs
from ode_solvers.whole.back_programs import pull_kernel
from ode_solvers.whole.contract import (
    ACTIVATIONS,
    ExpressionProgram,
    FieldProgram,
    MLPProgram,
)
from ode_solvers.whole.programs import solve_kernel
from ode_solvers.whole.table import Constants, constants

_RECORDED = 64
"""Accepted steps of a sample that there is room for at first; where they are more, all is solved
once again with room for all."""


class Kept(NamedTuple):
    """A solve and what its backward pass needs.

    `ys` is `[T, B, size]`, `log` `[5, B]`: calls, accepted and attempted steps, status, outputs.
    `clock` is `[2, B]`, `states` `[S, B, size]` and `spans` `[S, B, 2]` the starts and the ends of
    accepted steps.
    """

    ys: Tensor
    log: Tensor
    clock: Tensor
    states: Tensor
    spans: Tensor

    def samples(self) -> SampleLog:
        """Return what the loop reports of each sample."""
        log = SampleLog(0, self.log.device)
        log.f_calls, log.accepted, tried, log.status, _ = self.log.unbind()
        log.rejected = tried - log.accepted
        log.t, log.dt = self.clock.unbind()
        return log


@dataclass(frozen=True)
class Whole(Fused):
    """A kernel that solves whole fields of `ode_solvers.fields`, with per-sample steps.

    A program holds `samples` of the batch; by default as many as its registers take.
    """

    name: str = "whole"
    samples: int | None = None

    def prepare(self, dt: float | Tensor, y: Tensor) -> Any:
        """Raise ArgumentError: step by step is another kernel's work."""
        del dt, y
        raise ArgumentError(
            "kernel='whole' solves with stepping='per_sample'; pass that, or take kernel='triton'"
        )

    def solve(
        self, table: Tableau, field: FieldProgram, problem: SampleProblem, plan: Plan, *, keep: bool
    ) -> Kept:
        """Solve, one launch, and with `keep` keep the steps, in a second one where they are many.

        With `keep` the number of steps is read from the device.
        """
        kept = self._solve(table, field, problem, plan, _RECORDED if keep else 0)
        most = int(kept.log[1].max()) if keep else 0
        return kept if most <= _RECORDED else self._solve(table, field, problem, plan, most)

    def _solve(
        self,
        table: Tableau,
        field: FieldProgram,
        problem: SampleProblem,
        plan: Plan,
        room: int,
    ) -> Kept:
        y0, made = problem.y0.detach().contiguous(), constants(table)
        assert made is not None  # asked for before
        rows, size = y0.shape
        times, count = problem.ts.detach(), problem.ts.shape[1]
        double: Any = {"dtype": torch.float64, "device": y0.device}
        kept = Kept(
            torch.empty((count, rows, size), dtype=y0.dtype, device=y0.device),
            torch.empty((5, rows), dtype=torch.int64, device=y0.device),
            torch.empty((2, rows), **double),
            torch.empty((room, rows, size), dtype=y0.dtype, device=y0.device),
            torch.empty((room, rows, 2), **double),
        )
        times = times if times.stride(1) == 1 else times.contiguous()
        rtol, atol, wide = _tolerances(plan, y0)
        sized, dt, sizes = _sizes(plan, y0)
        arguments = (y0, times, rtol, atol, dt, sizes, wide, _pointers(field, y0), *kept, rows,
                     size, count, times.stride(0), room, plan.max_steps, float(size))  # fmt: skip
        constants_ = self._constants(field, y0, made) | _control(plan) | {
            "ORDER": plan.solver.order, "STARTS": made.starts, "SIZED": sized,
            "WIDE": bool(wide), "RECORD": room > 0, "E": made.errors,
        }  # fmt: skip
        grid = triton.cdiv(rows, constants_["BB"])
        self.launch(solve_kernel, grid, arguments, constants_)
        return kept

    def pull(
        self,
        table: Tableau,
        field: FieldProgram,
        problem: SampleProblem,
        kept: Kept,
        grad: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients of the start and of the field's tensors, one launch.

        `grad` is `[T, B, size]`. Each program adds up its samples' gradients of a shared tensor in
        the order of its steps; these sums are added in the order of programs.
        """
        made = constants(table)
        assert made is not None  # asked for before
        rows, size = problem.y0.shape
        grad, out = (
            grad.contiguous(),
            torch.empty_like(grad[0], memory_format=torch.contiguous_format),
        )
        times = problem.ts.detach()
        times = times if times.stride(1) == 1 else times.contiguous()
        constants_ = self._constants(field, out, made)
        grid = triton.cdiv(rows, constants_["BB"])
        sums = [torch.empty(shape, dtype=out.dtype, device=out.device)
                for shape in _sums(field, grid, out)]  # fmt: skip
        arguments = (grad, times, _pointers(field, out), kept.log, kept.states, kept.spans, out,
                     tuple(sums) or (out,), rows, size, times.stride(0))  # fmt: skip
        pull, zeros, store = _TRANSPOSES[type(field)]
        constants_ |= {"PULL": pull, "SUMS": zeros, "STORE": store}
        self.launch(pull_kernel, grid, arguments, constants_)
        return out, _totals(field, sums)

    def _constants(self, field: FieldProgram, y: Tensor, made: Constants) -> dict[str, Any]:
        program, spec = _FIELDS[type(field)], _spec(field)
        size = y.shape[1] // field.components
        width = triton.next_power_of_2(size)
        samples, warps = _tiles(field, width, y.element_size())
        return {
            "A": made.rows, "C": made.nodes, "D": made.dense, "X": made.more_rows,
            "N": made.more_nodes, "FIELD": program, "SPEC": spec,
            "COMPONENTS": field.components, "W": width, "BB": self.samples or samples,
            "num_warps": warps,
        }  # fmt: skip


_FIELDS: dict[type, Any] = {
    MLPProgram: mlp_programs.mlp,
    ExpressionProgram: expression_programs.expression,
}
_TRANSPOSES: dict[type, Any] = {
    MLPProgram: (mlp_programs.mlp_pull, mlp_programs.mlp_sums, mlp_programs.mlp_store),
    ExpressionProgram: (
        expression_programs.expression_pull,
        expression_programs.expression_sums,
        expression_programs.expression_store,
    ),
}


def _tiles(field: FieldProgram, width: int, itemsize: int) -> tuple[int, int]:
    """Return how many samples a program holds, and its warps."""
    if isinstance(field, ExpressionProgram):
        return max(1, 32 // width), 1
    padded = [triton.next_power_of_2(size) for size in field.sizes]
    layer = max(a * b for a, b in pairwise(padded)) * itemsize // 4
    # A layer's products, one for each of its weights, are spread over the threads.
    return 1, min(max(layer // 128, 1), 8)


def _spec(field: FieldProgram) -> tuple[Any, ...]:
    if isinstance(field, MLPProgram):
        padded = tuple(triton.next_power_of_2(size) for size in field.sizes)
        return field.sizes, padded, ACTIVATIONS.index(field.activation), field.time
    kinds = tuple(_kind(field, tensor) for tensor in field.tensors)
    return (
        tuple(int(row) for row, _ in kinds),
        tuple(int(entry) for _, entry in kinds),
        *field.forward.columns,
        *field.transpose.columns,
    )


def _kind(field: ExpressionProgram, tensor: Tensor) -> tuple[bool, bool]:
    """Return whether a parameter differs from sample to sample, and from entry to entry."""
    lead = 1 if field.size is not None else 2
    shape = (1,) * (lead - tensor.dim()) + tuple(tensor.shape)
    return shape[0] > 1, lead == 2 and shape[1] > 1


def _pointers(field: FieldProgram, y: Tensor) -> tuple[Any, ...]:
    if isinstance(field, MLPProgram):
        return tuple(x.detach().contiguous() for x in field.tensors)
    found: list[Any] = []
    for tensor in field.tensors:
        spread = tensor.detach().to(y.device)
        lead = 1 if field.size is not None else 2
        spread = spread.expand((1,) * (lead - spread.dim()) + tuple(spread.shape))
        found += [spread, spread.stride(0), spread.stride(1) if lead == 2 else 0]
    return (*found, y.shape[0], y.shape[1] // field.components)


def _sums(field: FieldProgram, grid: int, y: Tensor) -> list[tuple[int, ...]]:
    if isinstance(field, MLPProgram):
        return [(grid, *x.shape) for x in field.tensors]
    kinds = [_kind(field, tensor) for tensor in field.tensors]
    return [(len(y) if row else grid, y.shape[1] if entry else 1) for row, entry in kinds]


def _totals(field: FieldProgram, sums: list[Tensor]) -> list[Tensor]:
    found = []
    for tensor, total in zip(field.tensors, sums, strict=True):
        own = isinstance(field, ExpressionProgram) and _kind(field, tensor)[0]
        found.append((total if own else total.sum(0)).reshape(tensor.shape).to(tensor.dtype))
    return found


def _tolerances(plan: Plan, y: Tensor) -> tuple[float, float, tuple[Any, ...]]:
    tolerance = plan.tolerance
    if tolerance is None:
        return 0.0, 0.0, ()
    rtol, atol = tolerance.rtol, tolerance.atol
    if not isinstance(rtol, Tensor) and not isinstance(atol, Tensor):
        return rtol, atol, ()
    spread = [torch.as_tensor(x, dtype=torch.float64, device=y.device).expand(y.shape)
              for x in (rtol, atol)]  # fmt: skip
    strides = [step for x in spread for step in x.stride()]
    return 0.0, 0.0, (*spread, *strides)


def _sizes(plan: Plan, y: Tensor) -> tuple[int, float, Tensor]:
    """Return whether there is a first step size, 1, or one of each sample, 2, and which."""
    given = plan.dt if plan.start is None or plan.start.dt is None else plan.start.dt
    if isinstance(given, Tensor) and given.dim():
        return 2, 0.0, given.to(y.device, torch.float64).contiguous()
    return (0, 0.0, y) if given is None else (1, float(given), y)


def _control(plan: Plan) -> dict[str, Any]:
    controller = plan.controller
    if isinstance(controller, FixedSteps):
        return {"CHOOSES": False, "EXPONENTS": (), "LIMITS": ()}
    assert isinstance(controller, PIDController)  # asked for before
    order = getattr(plan.solver, "error_order", plan.solver.order)
    limits = (controller.safety, controller.factor_min, controller.factor_max, controller.dt_min,
              min(controller.dt_max, 1e300), controller.floor * controller.safety)  # fmt: skip
    exponents = (*controller.exponents(order), -1.0 / order)
    return {"CHOOSES": True, "EXPONENTS": exponents, "LIMITS": limits}
