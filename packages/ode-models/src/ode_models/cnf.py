"""A continuous normalising flow: a density by the flow of a field, exact up to the solve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ode_core import ArgumentError, solve
from ode_models.block import ODEBlock, append_time
from ode_models.products import pulled
from ode_models.rnode import RNODE

if TYPE_CHECKING:
    from ode_core import GradientMethod, Solver

TRACES = ("exact", "hutchinson")


class CNF(nn.Module):
    """The density of points that a flow over [0, 1] takes to a standard normal distribution.

    Along the flow of f the logarithm of the density falls by the trace of df/dy. In training it is
    `trace`: "exact", by one product with the Jacobian for each dimension, or "hutchinson", by
    e^T df/dy e for one Rademacher e a solve, which is right in the mean and costs one product in
    any dimension. In evaluation it is always exact. `kinetic` and `jacobian` are the weights of
    `RNODE`.

    Source: Chen et al., NeurIPS 2018, section 4; Grathwohl et al., FFJORD, ICLR 2019.

    Raises ArgumentError for a trace that is neither, and what `ODEBlock` raises.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        trace: str = "exact",
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        if trace not in TRACES:
            raise ArgumentError(f"trace is one of {', '.join(TRACES)}; got {trace!r}")
        self.dim = dim
        self.trace = trace
        regulariser = RNODE(kinetic, jacobian)
        self.block = ODEBlock(
            Change(FlowField(dim, width)),
            solver=solver,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            dt=dt,
            regulariser=OfPoints(regulariser.kinetic, regulariser.jacobian)
            if regulariser
            else None,
        )

    def forward(self, points: Tensor) -> Tensor:
        """Return the logarithm of the density, `[B]` in nats, at points `[B, dim]`."""
        base, change = self.base(points)
        normal = -0.5 * (base.square().sum(1) + self.dim * math.log(2.0 * math.pi))
        return normal + change

    def base(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the flow takes points, `[B, dim]`, and the log of its Jacobian, `[B]`."""
        noise = None
        if self.training and self.trace == "hutchinson":
            noise = 2.0 * torch.randint(2, points.shape, device=points.device).to(points) - 1.0
        base, change = self.block((points, points.new_zeros(len(points))), noise)
        return base, change

    @torch.no_grad()
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw points `[count, dim]`; the generator is one of the model's device."""
        like = next(self.parameters())
        normal = torch.randn(
            count, self.dim, generator=generator, dtype=like.dtype, device=like.device
        )
        return self.back(normal)

    def back(self, base: Tensor) -> Tensor:
        """Return the points `[B, dim]` that the flow takes to `base`."""
        block: Any = self.block
        field: Any = block.field
        solution = solve(
            field.field,
            base,
            block.t[::-1],
            solver=block.solver,
            gradient=block.gradient,
            rtol=block.rtol,
            atol=block.atol,
            dt=block.dt,
        )
        points: Tensor = solution.ys[-1]
        return points


class FlowField(nn.Module):
    """dy/dt by a perceptron with three hidden layers of `width` and the time, on `[B, dim]`."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, dim),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[B, dim]`, at the time `t`, 0-d."""
        slope: Tensor = self.layers(append_time(t, y))
        return slope


class Change(nn.Module):
    """A field of points `[B, dim]` together with the trace of its Jacobian, `[B]`."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(
        self, t: Tensor, pair: tuple[Tensor, Tensor], noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return both; the trace is estimated along `noise` where that is given."""
        points = pair[0]
        if noise is not None:
            slope, (product,) = pulled(lambda y: self.field(t, y), points, [noise])
            return slope, (product * noise).sum(1)
        units = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
        vectors = [unit.expand_as(points) for unit in units]
        slope, rows = pulled(lambda y: self.field(t, y), points, vectors)
        return slope, torch.stack([row[:, place] for place, row in enumerate(rows)]).sum(0)


@dataclass(frozen=True)
class OfPoints(RNODE):
    """The regularisers of the field of points alone, which a `Change` carries."""

    def integrand(self, field: Any, y0: Any) -> Callable[..., Tensor]:
        """Return g(t, pair, noise), 0-d."""
        energy = super().integrand(field.field, y0[0])
        return lambda t, pair, noise: energy(t, pair[0])
