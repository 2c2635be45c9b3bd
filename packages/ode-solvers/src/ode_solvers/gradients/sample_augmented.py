"""The systems that continuous adjoints of per-sample solves go back over, one row a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ode_core.interpolation import interpolant
from ode_core.rows import along, take, where
from ode_core.tolerance import SampleTolerance
from ode_solvers.gradients.quadrature import GAUSS, KRONROD

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ode_core import Solver
    from ode_core.loops.sample_march import SampleStep
    from ode_core.protocols import Interpolant
    from ode_core.replay import Again
    from ode_solvers.gradients.augmented import Pulled
    from ode_solvers.gradients.totals import Totals

    SamplePath = Callable[[Tensor], Tensor]

# The least part of a step that sums are refined to, and units of rounding that add up unseen.
_LEAST, _ROUNDING = 1 / 64, 50


class SampleAdjoint(Protocol):
    """A field on states of B samples that hold the adjoint a and, maybe, the state y."""

    @property
    def field(self) -> Again:
        """The field of the forward solve."""

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """Return the state of rows y and a, `[b, ...]`."""

    def parts(self, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and a at the times `[b]`."""

    def rebuilt(self, state: Tensor) -> Tensor | None:
        """Return the y that the backward solve has come to, None where it solves for a alone."""

    def adjoint(self, state: Tensor) -> Tensor:
        """Return a."""

    def tolerance(self, given: SampleTolerance) -> SampleTolerance:
        """Return the tolerance of a solve for y as one for states."""

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """Return the derivative of the state."""


@dataclass(frozen=True, eq=False)
class StateAndAdjoint:
    """The field of [y, a], `[B, 2, ...]`: one evaluation of f and one product with its transposed
    Jacobian."""

    field: Again

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """Return the state of rows y and a, `[b, ...]`."""
        return torch.stack([y, a], 1)

    def parts(self, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and a; f may want to view y in another shape."""
        del t
        return state[:, 0].contiguous(), state[:, 1]

    def rebuilt(self, state: Tensor) -> Tensor | None:
        """Return y."""
        return state[:, 0]

    def adjoint(self, state: Tensor) -> Tensor:
        """Return a."""
        return state[:, 1]

    def tolerance(self, given: SampleTolerance) -> SampleTolerance:
        """Return the tolerance for both, the norm being the larger one of the two."""
        rtol, atol = (
            x.unsqueeze(1) if isinstance(x, torch.Tensor) else x for x in (given.rtol, given.atol)
        )
        return _OfHalves(rtol, atol)

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """Return the derivative of the state."""
        y, a = self.parts(t, state)
        slope, (back,) = _products(self.field, t, y, a, of_state=True)
        return torch.stack([slope, torch.zeros_like(a) if back is None else back.neg()], 1)


@dataclass(frozen=True, eq=False)
class _OfHalves(SampleTolerance):
    """What error is allowed for the halves of states `[B, 2, ...]`, neither of which hides the
    other."""

    def root_mean_square(self, ratio: Tensor) -> Any:
        """Return the larger one of the halves' `[B]` root mean squares, infinite where NaN."""
        halves = [super(_OfHalves, self).root_mean_square(half) for half in ratio.unbind(1)]
        return torch.maximum(*halves)

    def rows(self, rows: Tensor) -> SampleTolerance:
        """Return the tolerance of the given rows, `[n]` indices."""
        return _OfHalves(take(self.rtol, rows), take(self.atol, rows))


@dataclass(frozen=True, eq=False)
class AdjointAlone:
    """The field of a, `[B, ...]`, along a path from which y is read."""

    field: Again
    path: SamplePath

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """Return a."""
        del y
        return a

    def parts(self, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, from the path, and a."""
        return self.path(t), state

    def rebuilt(self, state: Tensor) -> Tensor | None:
        """Return None: y is not solved for."""
        del state
        return None

    def adjoint(self, state: Tensor) -> Tensor:
        """Return a."""
        return state

    def tolerance(self, given: SampleTolerance) -> SampleTolerance:
        """Return the tolerance of y, which is that of a."""
        return given

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """Return the derivative of a."""
        y, a = self.parts(t, state)
        (back,) = _products(self.field, t, y, a, of_state=True)[1]
        return torch.zeros_like(a) if back is None else back.neg()


def _products(
    field: Again,
    t: Tensor,
    y: Tensor,
    a: Tensor,
    *,
    of_state: bool = False,
    parameters: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Pulled]:
    """Return f, and a df/dx for the state, if that is asked for, and the parameters."""
    with torch.enable_grad():
        y = y.detach().requires_grad_(of_state)
        slope = field(t, y)
    inputs = [*([y] if of_state else []), *parameters]
    if not slope.requires_grad:
        return slope, [None] * len(inputs)
    found = torch.autograd.grad(slope, inputs, a, allow_unused=True)
    return slope.detach(), found


def add_step(totals: Totals, adjoint: SampleAdjoint, solver: Solver, step: SampleStep) -> None:
    """Add to the parameters' gradients what an attempted step's accepted rows say.

    It is summed up at nodes of the step's continuous output, with a row's step size in its adjoint:
    what a parameter gets is one sum over all rows, and has no row to choose a step by. Where the
    error of the sums counts, they are refined within the step instead. Rows that were refused
    stand still.
    """
    accepted = step.accepted
    if not totals.parameters or not bool(accepted.any()):
        return
    at = interpolant(solver, adjoint, (step.t0, step.t1), step.y0, step.step)
    spans = [(0.0, 1.0)]
    while spans:
        low, high = spans.pop()
        _sum(totals, adjoint, at, step, (low, high), solver.order)
        norms = totals.norms() if totals.controlled and high - low > _LEAST else ()
        if norms and not _good(norms, totals.eps):
            middle = 0.5 * (low + high)
            spans += [(low, middle), (middle, high)]
        else:
            totals.accept()


def _sum(
    totals: Totals,
    adjoint: SampleAdjoint,
    at: Interpolant,
    step: SampleStep,
    span: tuple[float, float],
    order: int,
) -> None:
    """Add up a part of a step; where its error counts, that and the part again, to be measured."""
    controlled = totals.controlled
    rule = next(rule for most, rule in GAUSS if order <= most)
    nodes = KRONROD if controlled else [(c, w, 0.0) for c, w in rule]
    totals.begin(3 if controlled else 1)
    (low, high), dt = span, torch.where(step.accepted, step.t1 - step.t0, 0.0)
    for node, weight, difference in nodes:
        theta = low + node * (high - low)
        state = where(step.accepted, at(torch.full_like(dt, theta)), step.y0)
        t = step.t0 + theta * dt
        y, a = adjoint.parts(t, state)
        scaled = a * along(-dt * (high - low), a)
        _, found = _products(adjoint.field, t, y, scaled, parameters=totals.parameters)
        totals.take(found, (weight, difference, weight) if controlled else (weight,))


def _good(norms: tuple[float, ...], eps: float) -> bool:
    """Return whether sums are good enough, by the norms of the difference of two rules and of them.

    The difference is the error of the worse rule; that of the better one is a higher power of it.
    Source: Piessens et al., QUADPACK, 1983, section 2.2.
    """
    apart, size = norms
    if apart <= max(1.0, _ROUNDING * eps * size):
        return True
    return apart * math.sqrt(apart / max(size, apart)) <= 1.0
