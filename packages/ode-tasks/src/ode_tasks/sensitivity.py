"""A model's field as a function of its weights, and solutions with their derivatives.

Source: Bock, Recent advances in parameter identification for ordinary differential equations
(1983), for solving the variational equations along with the states; by a Runge-Kutta method with
given steps that is the exact derivative of the discrete solution.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from ode_core.api import solve

if TYPE_CHECKING:
    from torch import Tensor


class _Called(nn.Module):
    """Calls a model's field, be it a module or a method, so that its weights can be replaced."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor) -> Tensor:
        slopes: Tensor = self.model.field(states.new_zeros(()), states)
        return slopes


class WeighedField:
    """The field of a copy of a model, in float64: slopes at states `[N, dim]` for weights `[P]`."""

    def __init__(self, model: nn.Module) -> None:
        self._called = _Called(copy.deepcopy(model).double())
        trained = {n: p for n, p in self._called.named_parameters() if p.requires_grad}
        self._names = list(trained)
        self._shapes = [p.shape for p in trained.values()]
        self._sizes = [p.numel() for p in trained.values()]
        self.weights = torch.cat([p.detach().flatten() for p in trained.values()])

    def __call__(self, weights: Tensor, states: Tensor) -> Tensor:
        """Return slopes, `[N, dim]`."""
        slopes: Tensor = functional_call(self._called, self._named(weights), (states,))
        return slopes

    def jacobians(self, weights: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return slopes `[N, dim]` and derivatives by states, `[N, dim, dim]`, and weights.

        Those by weights are `[N, dim, P]`.
        """

        def one(weights: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            slope = self(weights, state[None])[0]
            return slope, slope

        found = vmap(jacrev(one, argnums=(0, 1), has_aux=True), in_dims=(None, 0))(weights, states)
        (by_weight, by_state), slopes = found
        return slopes, by_state, by_weight

    @torch.no_grad()
    def put_into(self, model: nn.Module, weights: Tensor) -> None:
        """Give a model of the same kind these weights."""
        own = dict(model.named_parameters())
        for name, value in self._named(weights).items():
            own[name.removeprefix("model.")].copy_(value)

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        parts = weights.split(self._sizes)
        shaped = (part.view(shape) for part, shape in zip(parts, self._shapes, strict=True))
        return dict(zip(self._names, shaped, strict=True))


@dataclass(frozen=True)
class Flow:
    """Solutions of a field from starts `[B, dim]` at times `[T]` or, each its own, `[B, T]`.

    `solver` is the name of an explicit one and `dt` its step.
    """

    field: WeighedField
    times: Tensor
    solver: str
    dt: float

    def __call__(self, weights: Tensor, starts: Tensor) -> Tensor:
        """Return states `[T, B, dim]`, NaN from where they are no numbers."""
        return self._solve(lambda t, y: self.field(weights, y), starts)

    def derivatives(self, weights: Tensor, starts: Tensor) -> Tensor:
        """Return states and their derivatives by starts and by weights, `[T, B, dim, 1+dim+P]`."""
        count, dim = starts.shape
        one = torch.eye(dim).to(starts).expand(count, dim, dim)
        none = starts.new_zeros(count, dim, len(weights))

        def variational(t: Tensor, y: Tensor) -> Tensor:
            slopes, by_state, by_weight = self.field.jacobians(weights, y[..., 0])
            own = torch.cat((slopes[..., None], torch.zeros_like(by_state), by_weight), -1)
            moved = by_state @ y[..., 1:]
            own[..., 1:] += moved
            return own

        return self._solve(variational, torch.cat((starts[..., None], one, none), -1))

    def _solve(self, field: Any, starts: Tensor) -> Tensor:
        with torch.no_grad():
            states: Tensor = solve(
                field,
                starts,
                self.times,
                solver=self.solver,
                dt=self.dt,
                stepping="per_sample" if self.times.dim() == 2 else "shared",
                on_failure="return",
            ).ys
        return states
