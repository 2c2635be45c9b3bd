"""What a solve returns: states, statistics, status, and the solution between its steps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.errors import ArgumentError, UnsupportedError
from ode_core.interpolation import at_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ode_core.events import Occurrence
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
    EVENT = "ended at an event"

    @property
    def failed(self) -> bool:
        """Whether the solve could not be finished."""
        return self not in (Status.SUCCESS, Status.EVENT)


@dataclass
class Stats:
    """What a solve cost.

    `f_calls` are evaluations of f in the forward solve, `accepted` and `rejected` its steps;
    `backward_f_calls` is added to by each backward pass of a method that evaluates f there. With
    per-sample steps the first three are `[B]` int64 tensors: the calls and steps in which each
    sample took part.
    """

    f_calls: Any = 0
    accepted: Any = 0
    rejected: Any = 0
    backward_f_calls: int = 0


@dataclass(frozen=True, eq=False)
class StepLog:
    """Every attempted step, in order: start `t`, signed size `dt`, error ratio, accepted or not.

    `t`, `dt` and `error` are `[n]` float64 tensors on the CPU, `accepted` is `[n]` bool; `error`
    is NaN where the method gave no estimate. With per-sample steps `sample` is `[n]` int64, whose
    step it was.
    """

    t: Tensor
    dt: Tensor
    error: Tensor
    accepted: Tensor
    sample: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """One accepted step's polynomial, and the stretch of the solution that it answers for.

    It runs from t0 to `until`, which is t1, the far side of a jump there, or an event before it.
    """

    t0: float
    t1: float
    until: float
    at: Interpolant


class Switch(NamedTuple):
    """Where a solver of several methods changed over, and to which one."""

    t: float
    method: str


class Node(NamedTuple):
    """A point of the quadrature of an integrand: the row of its state, the output up to which it
    counts first, and its weight."""

    row: int
    output: int
    weight: float


@dataclass(frozen=True)
class Compiled:
    """What torch.compile made of a solve: `part` is "step", "solve" or "nothing".

    `programs` is how many graphs have been made for it by now, this and earlier solves together.
    Where both were tried, `seconds` says what each took, with its backward pass where there is
    one; `reason` says why there was nothing to try.
    """

    part: str
    programs: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(eq=False)
class Trajectory:
    """What a gradient method hands to `solve`: states in the order of time and how they came.

    `ys` is `[R, ...]` at `times`, which are the requested ones and, between them, those of events
    and of quadrature nodes; `wanted` are the rows of the requested times that were reached,
    `events` pairs of row and index of an event.
    """

    ys: Tensor
    stats: Stats
    status: Status = Status.SUCCESS
    stopped_at: float = float("nan")
    attempts: list[tuple[float, float, float, bool]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    times: tuple[float, ...] = ()
    wanted: tuple[int, ...] = ()
    events: tuple[tuple[int, int], ...] = ()
    nodes: tuple[Node, ...] = ()
    end: End | None = None
    hint: str = ""
    switches: tuple[Switch, ...] = ()


class End(NamedTuple):
    """Where the loop stood when it ended: next step size, the solver's carry, the controller's
    memory."""

    dt: Any
    carry: Any
    memory: Any


@dataclass(frozen=True, eq=False)
class State:
    """Where a solve ended, to start the next one from: `solve(f, solution.state, t)`.

    `y` is the state, like `y0`, at the time `t`, a float, or `[B]` with per-sample steps; `dt` is
    the size that the next step would have had. The next solve begins with that size, without a
    search, and with the controller's memory; a multistep method goes on with its history. `delay`,
    like `t` as a tensor, is zero and carries the gradient of the time of the event that ended it.
    """

    y: Any
    t: float | Tensor
    dt: Any = None
    carry: Any = None
    memory: Any = None
    delay: Tensor | None = None

    def detach(self) -> State:
        """Return the state without its graph, as truncated back-propagation needs it."""
        y, carry = pytree.tree_map(_detached, (self.y, self.carry))
        return replace(self, y=y, carry=carry, delay=None)

    def with_y(self, y: Any) -> State:
        """Return the state with another `y`, as after an observation; a history is dropped."""
        return replace(self, y=y, carry=None)


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


@dataclass(frozen=True, eq=False)
class Solution:
    """The solution at the requested times.

    `ts` is `[T]`, or `[B, T]`, as it was given, `ys` has the structure of `y0` with a leading `T`.
    `status` is one for all, or with per-sample steps a tuple, one a sample. `decided_by` says which
    error estimate and norm chose the steps. `steps` is there with `record_steps=True`. `event` is
    the event that ended the solve, `events` all that occurred, in order. `integrals` are those of
    the integrand from the start to every time, `[T, ...]`. `state` starts the next solve where
    this one ended; None after a failure. `hint` is what the solver noticed, such as that the
    problem looks stiff, `switches` where a solver of several methods changed over. `compiled` says
    what was compiled where that was asked for.
    """

    ts: Tensor
    ys: Any
    stats: Stats
    status: Any
    decided_by: str
    state: State | None = None
    event: Occurrence | None = None
    events: tuple[Occurrence, ...] = ()
    integrals: Any = None
    steps: StepLog | None = None
    pieces: tuple[Any, ...] | None = None
    unpack: Callable[[Tensor, int], Any] | None = None
    undifferentiable: str = ""
    start: Tensor | None = None
    hint: str = ""
    switches: tuple[Switch, ...] = ()
    compiled: Compiled | None = None

    def interpolate(self, t: float | Tensor | Sequence[float]) -> Any:
        """Return the solution at times within the solve: `[...]` at a number, `[n, ...]` at `[n]`.

        With per-sample steps also at `[B, n]` times, each sample at its own, as `[n, B, ...]`.

        Raises ArgumentError without `dense=True` or for a time outside of the solve, and
        UnsupportedError where a gradient is asked for that the gradient method does not carry.
        """
        if self.pieces is None or self.unpack is None or self.start is None:
            raise ArgumentError("interpolate needs dense=True in the call of solve")
        if self.undifferentiable and torch.is_grad_enabled():
            raise UnsupportedError(self.undifferentiable)
        times = torch.as_tensor(t, dtype=torch.float64)
        if isinstance(self.status, tuple):
            # A sample's stretch is found among the steps of all.
            batch = len(self.status)
            wanted = times if times.dim() == 2 else times.expand(batch, -1 if times.dim() else 1)
            if times.dim() > 2 or len(wanted) != batch:
                raise ArgumentError(
                    f"interpolate takes a number, [n] times, or [{batch}, n] ones; got shape "
                    f"{tuple(times.shape)}"
                )
            rows = at_samples(self.pieces, wanted, (self.ts, self.start))
            return self.unpack(rows[0] if times.dim() == 0 else rows, int(times.dim() > 0))
        if times.dim() > 1:
            raise ArgumentError(
                f"interpolate takes a number or [n] times; got shape {tuple(times.shape)}"
            )
        states = [self._at(time) for time in times.reshape(-1).tolist()]
        if not states:
            return self.unpack(self.start.new_empty((0, *self.start.shape)), 1)
        if times.dim() == 0:
            return self.unpack(states[0], 0)
        return self.unpack(torch.stack(states), 1)

    def _at(self, t: float) -> Tensor:
        assert self.start is not None  # asked for before
        pieces = self.pieces or ()
        first = float(self.ts.detach()[0])
        last = pieces[-1].until if pieces else first
        if not min(first, last) <= t <= max(first, last):
            raise ArgumentError(
                f"t = {t} lies outside of the solve, which ran from {first} to {last}"
            )
        sign = 1.0 if last >= first else -1.0
        if not pieces:
            return self.start
        index = bisect_left(pieces, sign * t, key=lambda piece: sign * piece.until)
        piece = pieces[min(index, len(pieces) - 1)]
        # Between the two sides of a jump the state is the one before it.
        length = piece.t1 - piece.t0
        theta = (t - piece.t0) / length if length else 1.0
        state: Tensor = piece.at(min(max(theta, 0.0), 1.0))
        return state


def step_log(attempts: Sequence[tuple[float, float, float, bool]]) -> StepLog:
    """Return the attempted steps as tensors."""
    columns = torch.tensor([a[:3] for a in attempts], dtype=torch.float64).reshape(-1, 3)
    accepted = torch.tensor([a[3] for a in attempts], dtype=torch.bool)
    return StepLog(columns[:, 0], columns[:, 1], columns[:, 2], accepted)
