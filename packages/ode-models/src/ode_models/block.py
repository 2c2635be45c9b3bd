"""A vector field and how to solve it, as one layer of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ode_core import ArgumentError, solve

if TYPE_CHECKING:
    from ode_core import GradientMethod, Solver, Stats


class ODEBlock(nn.Module):
    """The flow of a vector field from the first of its times to the others.

    `field(t, y) -> dy/dt` is a module or any callable. `t` are two times or more, in one
    direction; solver, gradient, tolerances and `dt` are those of `ode_core.solve`. `stats` says
    what the last call cost, None before it; it is no part of the state dict.

    Raises ArgumentError for times that cannot be solved over.
    """

    def __init__(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        t: Sequence[float] = (0.0, 1.0),
        *,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        times = tuple(float(time) for time in t)
        rising = all(a < b for a, b in pairwise(times))
        falling = all(a > b for a, b in pairwise(times))
        if len(times) < 2 or not (rising or falling) or not all(map(math.isfinite, times)):
            raise ArgumentError(
                f"t is two times or more, strictly rising or falling; got {list(times)[:6]}"
            )
        self.field = field
        self.t = times
        self.solver = solver
        self.gradient = gradient
        self.rtol = rtol
        self.atol = atol
        self.dt = dt
        self.stats: Stats | None = None

    def forward(self, y0: Tensor) -> Tensor:
        """Return the state at the last of two times, like `y0`, or `[T, ...]` at all of more."""
        solution = solve(
            self.field,
            y0,
            self.t,
            solver=self.solver,
            gradient=self.gradient,
            rtol=self.rtol,
            atol=self.atol,
            dt=self.dt,
        )
        self.stats = solution.stats
        states: Tensor = solution.ys
        return states[-1] if len(self.t) == 2 else states

    def extra_repr(self) -> str:
        """Return the settings for `print(model)`."""
        parts: dict[str, Any] = {
            "t": self.t,
            "solver": getattr(self.solver, "name", self.solver),
            "gradient": getattr(self.gradient, "name", self.gradient),
            "rtol": self.rtol,
            "atol": self.atol,
            "dt": self.dt,
        }
        return ", ".join(f"{name}={value}" for name, value in parts.items() if value is not None)


def append_time(t: Tensor, y: Tensor) -> Tensor:
    """Return `y`, `[B, C, ...]`, with the time as one more entry of dim 1."""
    return torch.cat([y, t.to(y.dtype).expand(y.shape[0], 1, *y.shape[2:])], 1)
