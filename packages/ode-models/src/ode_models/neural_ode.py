"""A neural ODE for trajectories: learns the vector field that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ode_core import solve
from ode_models.block import check_settings
from ode_models.fields import MeasuredMLPField

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core import GradientMethod, Solver, Stats


class NeuralODE(nn.Module):
    """The flow of a perceptron's vector field from `[B, dim]` through given times.

    `field(t, y)` is the field; `stats` says what the last call cost, None before it, and `t` are
    its times.

    Raises ArgumentError for settings that do not go together, UnknownNameError for a solver or
    gradient method that nobody registers.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        self.field = MeasuredMLPField(dim, width)
        check_settings(self.field, solver, gradient, rtol=rtol, atol=atol, dt=dt)
        self.solver = solver
        self.gradient = gradient
        self.rtol = rtol
        self.atol = atol
        self.dt = dt
        self.t: tuple[float, ...] | Tensor = ()
        self.stats: Stats | None = None

    def forward(self, y0: Tensor, t: Tensor) -> Tensor:
        """Return states `[T, B, dim]` at the times `[T]`, the first of which is that of `y0`.

        With times `[B, T]` each sample has its own, and its own steps.
        """
        solution = solve(
            self.field,
            y0,
            t,
            solver=self.solver,
            gradient=self.gradient,
            rtol=self.rtol,
            atol=self.atol,
            dt=self.dt,
            stepping="per_sample" if t.dim() == 2 else "shared",
        )
        self.stats = solution.stats
        self.t = tuple(t.tolist()) if t.dim() == 1 else t
        states: Tensor = solution.ys
        return states
