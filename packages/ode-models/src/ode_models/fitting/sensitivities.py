"""The equations with their forward sensitivities, solved for all stretches at once.

Along with every state go its derivatives by the start of its stretch and by the parameters. A step
of a Runge-Kutta method on both is the exact derivative of its step on the state, so that the
Jacobian belongs to the residuals to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, vmap
from torch.func import jvp

from ode_core import ArgumentError, Solution, solve

Unravel = Callable[[Tensor], Any]


@dataclass(frozen=True, eq=False)
class Equations:
    """f(t, y, p) and what is seen of a state, both for one state `[n]` and the user's parameters.

    `unravel` makes those of `[P]`; `unit` is the size of each, in which the sensitivities are
    measured while they are solved.
    """

    f: Callable[[Tensor, Tensor, Any], Tensor]
    observe: Callable[[Tensor, Tensor, Any], Tensor] | None
    unravel: Unravel
    unit: Tensor
    options: dict[str, Any]

    def check(self, state: Tensor, parameters: Tensor, read: int) -> None:
        """Raise ArgumentError where f or observe cannot be differentiated, or gives other shapes.

        `state` is `[n]`, `parameters` `[P]`, and `read` the number of readings at a time.
        """
        size = len(state)
        tangents = state.new_zeros(1, size + len(parameters), size)
        for name, g, count in (("f", self.f, size), ("observe", self.observe, read)):
            if g is None:
                continue
            try:
                value, _ = self.pushed(g, state.new_zeros(()), state[None], tangents, parameters)
            except (RuntimeError, ValueError, TypeError) as error:
                raise ArgumentError(
                    f"{name}(t, y, parameters) takes one state [{size}] in operations that "
                    f"torch.vmap and torch.func.jvp go through; it gave: {error}"
                ) from error
            if value.shape != (1, count):
                raise ArgumentError(
                    f"{name} returns [{count}] for a state [{size}]; got {list(value.shape[1:])}"
                )

    def solved(self, starts: Tensor, parameters: Tensor, times: Tensor) -> Solution:
        """Solve from `[B, n]` over times `[B, K]`; states are pairs `[K, B, n]`, `[K, B, D, n]`.

        D = n + P: the derivatives by the start, then by the parameters in their units.
        """
        rows, size = starts.shape
        seeds = torch.zeros(rows, size + len(parameters), size).to(starts)
        seeds[:, :size] = torch.eye(size).to(starts)
        lone = rows == 1
        return solve(
            _Pair(self, parameters),
            (starts, seeds),
            times[0] if lone else times,
            stepping="shared" if lone else "per_sample",
            on_failure="return",
            **self.options,
        )

    def seen(
        self, t: Tensor, y: Tensor, tangents: Tensor, parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what is seen of states `[R, n]`, `[R, M]`, and its derivatives, `[R, D, M]`."""
        if self.observe is None:
            return y, tangents
        return self.pushed(self.observe, t, y, tangents, parameters)

    def pushed(
        self,
        g: Callable[[Tensor, Tensor, Any], Tensor],
        t: Tensor,
        y: Tensor,
        tangents: Tensor,
        parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return g(t, y, p) of states `[R, n]` and its derivatives along `[R, D, n]`."""
        rows, directions, size = tangents.shape

        def one(t: Tensor, y: Tensor, parameters: Tensor) -> Tensor:
            return g(t, y, self.unravel(parameters))

        along = torch.cat([torch.zeros(size, len(self.unit)).to(y), torch.diag(self.unit).to(y)])
        every = vmap(one, in_dims=(None if t.dim() == 0 else 0, 0, 0))
        times = t if t.dim() == 0 else t.repeat_interleave(directions)
        found = jvp(
            lambda y, p: every(times, y, p),
            (y.repeat_interleave(directions, 0), parameters.to(y).repeat(rows * directions, 1)),
            (tangents.reshape(-1, size), along.repeat(rows, 1)),
        )
        return found[0][::directions], found[1].unflatten(0, (rows, directions))


@dataclass(frozen=True, eq=False)
class _Pair:
    """The field of a state and its sensitivities."""

    equations: Equations
    parameters: Tensor

    def __call__(self, t: Tensor, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, tangents = pair
        return self.equations.pushed(self.equations.f, t, y, tangents, self.parameters)
