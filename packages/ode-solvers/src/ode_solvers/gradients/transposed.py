"""An explicit Runge-Kutta step pulled back by its own table, one evaluation at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ode_core.replay import recorded
from ode_solvers.kernels.choose import for_state

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.protocols import VectorField
    from ode_solvers.explicit import RungeKutta
    from ode_solvers.gradients.pulls import Pulls


def pull_back(
    solver: RungeKutta,
    f: VectorField,
    span: tuple[float, float],
    y: Tensor,
    grad: Tensor,
    pull: Pulls,
) -> Tensor:
    """Return the gradient of a step's start `y`, like it, from that of its end.

    Evaluations of `f` with a graph are pulled back by `pull`. With Y_i = y + h sum_j a_ij k_j the
    slopes' gradients are h (b_i grad + sum_j a_ji L_j), where L_j is what j's slope makes of its
    own. The last slope is evaluated there alone.

    Source: Sanz-Serna, Symplectic Runge-Kutta schemes for adjoint equations, SIAM Review 58 (2016).
    """
    table = solver.tableau
    h = span[1] - span[0]
    times = [span[1] if node == 1.0 else span[0] + node * h for node in table.c]
    with torch.no_grad():
        states = _states(solver, f, times, h, y)
        total = grad.clone()
        rows = [{}, *(dict(row) for row in table.stage_rows)]
        ends: list[tuple[dict[int, float], Tensor]] = [(dict(table.solution_row), grad)]
        for stage in range(len(states) - 1, -1, -1):
            slope = None
            for row, reached in ends:
                if weight := row.get(stage):
                    slope = _sum(slope, reached, h * weight)
            value = states.pop()
            if slope is not None:
                found = pull(*recorded(partial(f, times[stage]), value), slope)
                total.add_(found)
                ends.append((rows[stage], found))
    return total


def _states(
    solver: RungeKutta, f: VectorField, times: list[float], h: float, y: Tensor
) -> list[Tensor]:
    """Return the states at which a step evaluates f."""
    table: Any = solver.tableau
    kernel: Any = solver.kernel or for_state(y)
    size = kernel.prepare(h, y)
    slopes: list[Tensor] = []
    states = [y]
    # The last row of some tables is the solution: its slope is the next step's first.
    for row in table.stage_rows[: table.stages - 1 - table.last_is_solution]:
        slopes.append(f(times[len(slopes)], states[-1]))
        states.append(kernel.combine(y, size, row, slopes))
    return states


def _sum(total: Tensor | None, x: Tensor, weight: float) -> Tensor:
    return torch.mul(x, weight) if total is None else total.add_(x, alpha=weight)
