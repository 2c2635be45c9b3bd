"""What a solve returns: states, statistics, status, and the solution between its steps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_core.protocols import Interpolant


class Status(Enum):
    """How a solve ended; the value is the sentence that a reader sees."""

    SUCCESS = "reached the end"
    MAX_STEPS = (
        "took max_steps steps; raise max_steps, loosen rtol and atol, or, if the problem is stiff, "
        "take an implicit solver"
    )
    STEP_TOO_SMALL = (
        "needs steps too small for its clock; the problem may be stiff, or have a singularity there"
    )
    NOT_FINITE = "met values that are not finite; f or the solution grows without bound there"


@dataclass
class Stats:
    """What a solve cost.

    `f_calls` are evaluations of f in the forward solve, `accepted` and `rejected` its steps;
    `backward_f_calls` is added to by each backward pass of a method that evaluates f there.
    """

    f_calls: int = 0
    accepted: int = 0
    rejected: int = 0
    backward_f_calls: int = 0


@dataclass(frozen=True, eq=False)
class StepLog:
    """Every attempted step, in order: start `t`, signed size `dt`, error ratio, accepted or not.

    `t`, `dt` and `error` are `[n]` float64 tensors on the CPU, `accepted` is `[n]` bool; `error`
    is NaN where the method gave no estimate.
    """

    t: Tensor
    dt: Tensor
    error: Tensor
    accepted: Tensor


@dataclass(frozen=True, eq=False)
class Piece:
    """One accepted step's stretch of the solution, and its polynomial."""

    t0: float
    t1: float
    at: Interpolant


@dataclass(eq=False)
class Trajectory:
    """What a gradient method hands to `solve`: states at the requested times and how they came."""

    ys: Tensor
    stats: Stats
    status: Status = Status.SUCCESS
    stopped_at: float = float("nan")
    attempts: list[tuple[float, float, float, bool]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Solution:
    """The solution at the requested times.

    `ts` is `[T]` as it was given, `ys` has the structure of `y0` with a leading `T`. `decided_by`
    says which error estimate and norm chose the steps. `steps` is there with `record_steps=True`.
    """

    ts: Tensor
    ys: Any
    stats: Stats
    status: Status
    decided_by: str
    steps: StepLog | None = None
    pieces: tuple[Piece, ...] | None = None
    unpack: Callable[[Tensor], Any] | None = None
    undifferentiable: str = ""

    def interpolate(self, t: float | Tensor | Sequence[float]) -> Any:
        """Return the solution at times within the solve: `[...]` at a number, `[n, ...]` at `[n]`.

        Raises ArgumentError without `dense=True` or for a time outside of the solve, and
        UnsupportedError where a gradient is asked for that the gradient method does not carry.
        """
        if self.pieces is None or self.unpack is None:
            raise ArgumentError("interpolate needs dense=True in the call of solve")
        if self.undifferentiable and torch.is_grad_enabled():
            raise UnsupportedError(self.undifferentiable)
        times = torch.as_tensor(t, dtype=torch.float64)
        if times.dim() > 1:
            raise ArgumentError(
                f"interpolate takes a number or [n] times; got shape {tuple(times.shape)}"
            )
        states = [self._at(time) for time in times.reshape(-1).tolist()]
        return self.unpack(states[0] if times.dim() == 0 else torch.stack(states))

    def _at(self, t: float) -> Tensor:
        pieces = self.pieces or ()
        first, last = pieces[0].t0, pieces[-1].t1
        if not min(first, last) <= t <= max(first, last):
            raise ArgumentError(
                f"t = {t} lies outside of the solve, which ran from {first} to {last}"
            )
        sign = 1.0 if last >= first else -1.0
        index = bisect_left(pieces, sign * t, key=lambda piece: sign * piece.t1)
        piece = pieces[min(index, len(pieces) - 1)]
        # Between the two sides of a jump the state is the one before it.
        length = piece.t1 - piece.t0
        theta = (t - piece.t0) / length if length else 1.0
        return piece.at(min(max(theta, 0.0), 1.0))


def step_log(attempts: Sequence[tuple[float, float, float, bool]]) -> StepLog:
    """Return the attempted steps as tensors."""
    columns = torch.tensor([a[:3] for a in attempts], dtype=torch.float64).reshape(-1, 3)
    accepted = torch.tensor([a[3] for a in attempts], dtype=torch.bool)
    return StepLog(columns[:, 0], columns[:, 1], columns[:, 2], accepted)
