"""The solution within one step: the solver's own polynomial, or a cubic through both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.errors import ArgumentError
from ode_core.rows import along, where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_core.protocols import Interpolant, Solver, Step


def interpolant(
    solver: Solver,
    f: Callable[[Any, Tensor], Tensor],
    span: tuple[Any, Any],
    y0: Tensor,
    step: Step,
) -> Interpolant:
    """Return the solution within an accepted step as a function of theta in [0, 1].

    Building it may evaluate the field; calling it never does. Times and thetas are numbers, or
    `[B]` with per-sample steps.
    """
    t0, t1 = span
    own = getattr(solver, "interpolant", None)
    if own is not None:
        made: Interpolant = own(f, t0, t1, y0, step)
        return made
    return Hermite(t1 - t0, y0, f(t0, y0), step.y, f(t1, step.y))


@dataclass(frozen=True, eq=False)
class Hermite:
    """The cubic through both states with both slopes, of local error O(dt^4).

    Source: Hairer, Nørsett, Wanner I, eq. II.6.7.
    """

    dt: Any
    y0: Tensor
    k0: Tensor
    y1: Tensor
    k1: Tensor

    def __call__(self, theta: Any) -> Tensor:
        """Return the state at t0 + theta dt, like `y0`; theta and dt are numbers, or both `[B]`.

        Where the times of a solve are differentiated either may be a 0-d tensor.
        """
        first = theta * (1.0 - theta) ** 2 * self.dt
        second = theta * theta * (theta - 1.0) * self.dt
        rise = theta * theta * (3.0 - 2.0 * theta)
        change = torch.sub(self.y1, self.y0)
        if isinstance(theta, Tensor):
            y = torch.addcmul(self.y0, along(rise, change), change)
            y.addcmul_(along(first, y), self.k0)
            return y.addcmul_(along(second, y), self.k1)
        y = torch.add(self.y0, change, alpha=rise)
        return y.add_(self.k0, alpha=first).add_(self.k1, alpha=second)

    def many(self, thetas: Sequence[float]) -> Sequence[Tensor]:
        """Return the states at so many thetas, like `y0` each; on the CPU in one pass."""
        if not self.y0.is_cpu or type(self.dt) is not float:
            return [self(theta) for theta in thetas]
        parts = (x.expand(len(thetas), *x.shape) for x in (self.y0, self.k0, self.y1, self.k1))
        states = Hermite(self.dt, *parts)(torch.tensor(thetas, dtype=torch.float64))
        return states.unbind(0)

    def rows(self, rows: Tensor, theta: Tensor) -> Tensor:
        """Return the states of rows, `[n]` indices of a per-sample step, at their `[n]` thetas."""
        parts = (self.dt, self.y0, self.k0, self.y1, self.k1)
        return Hermite(*(x[rows] for x in parts))(theta)


def at_rows(
    at: Interpolant, like: Tensor, rows: Tensor, theta: Tensor, turns: tuple[int, ...]
) -> Tensor:
    """Return the states, `[n, ...]`, of `[n]` rows of a per-sample step at their `[n]` thetas.

    `like` is a state of the whole batch, `[B, ...]`. First come rows none of which comes twice,
    then more of those, as many as `turns` says. An interpolant that has `rows(rows, theta)` is
    asked for just that; any other is evaluated for the whole batch, once a turn.
    """
    own = getattr(at, "rows", None)
    if own is not None:
        states: Tensor = own(rows, theta)
        return states
    found = []
    for some, inside in zip(rows.split(turns), theta.split(turns), strict=True):
        whole = theta.new_ones(len(like)).index_copy_(0, some, inside)
        found.append(at(whole).index_select(0, some))
    return found[0] if len(found) == 1 else torch.cat(found)


def at_samples(pieces: Sequence[Any], times: Tensor, start: tuple[Tensor, Tensor]) -> Tensor:
    """Return the states of B samples, `[n, B, ...]`, at their own times, `[B, n]`.

    `pieces` are the stretches of per-sample steps, `start` the requested times and the states at
    the first. Raises ArgumentError for a time that no sample's stretch holds.
    """
    first, y0 = start[0].detach()[..., 0].to(times.device), start[1]
    states: list[Tensor] = [y0.new_empty((0, *y0.shape))]
    for t in times.unbind(1):
        found = (t == first).to(y0.device)
        state = where(found, y0, torch.full_like(y0, math.nan))
        for piece in pieces:
            own = t.to(piece.t0.device)[piece.rows]
            inside = (own - piece.t0) * (own - piece.until) <= 0.0
            here = piece.accepted & inside & (piece.t1 != piece.t0)
            if not bool(here.any()):
                continue
            theta = torch.where(here, (own - piece.t0) / (piece.t1 - piece.t0), 1.0)
            theta = theta.clamp(0.0, 1.0)
            values = piece.at(theta)
            whole = state[piece.rows]
            state = state.index_copy(0, piece.rows, where(here, values, whole))
            found[piece.rows] |= here
        if not bool(found.all()):
            row = int((~found).nonzero()[0])
            raise ArgumentError(f"t = {float(t[row])} lies outside of the solve of sample {row}")
        states.append(state[None])
    return torch.cat(states)
