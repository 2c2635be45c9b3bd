"""Events: zeros of a function along the solution, what they end or reset, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.errors import ArgumentError
from ode_core.loops.crossings import NODES, brackets, far_from_zero, near_miss, polished
from ode_core.rows import by_row

if TYPE_CHECKING:
    from ode_core.field import Field
    from ode_core.protocols import Interpolant


@dataclass(frozen=True)
class Event:
    """A zero of `fn(t, y)` along the solution.

    `fn` returns a 0-d tensor, or `[B]` with per-sample steps, from the time and the state as f gets
    them. A `terminal` event ends the solve; with `reset(t, y) -> y` the solve goes on from the new
    state instead. `direction` is 1 for rising zeros only, -1 for falling ones, in the direction in
    which the solve runs, 0 for both. A start on the zero is no event.
    """

    fn: Callable[[Tensor, Any], Tensor]
    terminal: bool = True
    direction: int = 0
    reset: Callable[[Tensor, Any], Any] | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ArgumentError(f"an event takes fn(t, y) -> Tensor; got {self.fn!r:.60}")
        if self.direction not in (-1, 0, 1):
            raise ArgumentError(f"an event's direction is -1, 0 or 1; got {self.direction!r}")
        if self.reset is not None and not callable(self.reset):
            raise ArgumentError(f"an event's reset is reset(t, y) -> y; got {self.reset!r:.60}")

    @property
    def stops(self) -> bool:
        """Whether the solution does not go on as it came."""
        return self.terminal or self.reset is not None


@dataclass(frozen=True, eq=False)
class Occurrence:
    """An event that occurred.

    `event` is its index in the list that was given, `t` its time, a 0-d float64 tensor, `y` the
    state there, like `y0`. With per-sample steps all have a leading `[B]`: -1, NaN and NaN where it
    did not occur. `t` and `y` are differentiable.
    """

    event: int | Tensor
    t: Tensor
    y: Any


def as_events(given: Any) -> tuple[Event, ...]:
    """Return what the user gave as `event`; raises ArgumentError for what is no event."""
    events = () if given is None else (given,) if isinstance(given, Event) else tuple(given)
    for event in events:
        if not isinstance(event, Event):
            raise ArgumentError(f"event is an Event or a list of them; got {event!r:.60}")
    return events


@dataclass(frozen=True, eq=False)
class Watch:
    """Looks for events within accepted steps of a solve with shared steps."""

    field: Field
    events: tuple[Event, ...]

    def within(
        self, span: tuple[float, float], at: Interpolant, *, fresh: bool
    ) -> tuple[list[Seen], bool]:
        """Return the events within a step, in order, up to the first that stops the solve.

        `at` is the step's interpolant; `fresh` says that the solve starts with this step. The flag
        says that a function comes so near to zero that the step's error may hide an event.
        """
        near = False
        with torch.no_grad():
            states = [at(theta) for theta in NODES]
            found: list[Seen] = []
            for index, event in enumerate(self.events):
                seen, close = self._zeros(index, event, span, at, states, fresh=fresh)
                found += seen
                near |= close
        found.sort(key=lambda seen: (abs(seen.t - span[0]), seen.event))
        stops = [k for k, seen in enumerate(found) if self.events[seen.event].stops]
        return (found[: stops[0] + 1] if stops else found), near

    def _zeros(
        self,
        index: int,
        event: Event,
        span: tuple[float, float],
        at: Interpolant,
        states: list[Tensor],
        *,
        fresh: bool,
    ) -> tuple[list[Seen], bool]:
        t0, t1 = span

        def time(theta: float) -> float:
            return t1 if theta == 1.0 else t0 + theta * (t1 - t0)

        values = [
            self._value(event, time(theta), y) for theta, y in zip(NODES, states, strict=True)
        ]
        if far_from_zero(values):
            return [], False
        column = torch.tensor(values, dtype=torch.float64)[:, None]
        lows, highs = brackets(column, event.direction, fresh=fresh)

        def g(theta: Tensor) -> Tensor:
            value = self._value(event, time(float(theta)), at(float(theta)))
            return torch.tensor([value], dtype=torch.float64)

        roots = [float(polished(g, a, b)) for a, b in zip(lows, highs, strict=True)]
        return [Seen(time(root), index) for root in roots if root <= 1.0], near_miss(values)

    def _value(self, event: Event, t: float, y: Tensor) -> float:
        value = value_of(self.field, event, t, y)
        if value.numel() != 1:
            raise ArgumentError(
                f"an event's fn returns one number with shared steps; got shape "
                f"{tuple(value.shape)}: take stepping='per_sample' for one event time a sample"
            )
        number = float(value)
        if math.isnan(number):
            raise ArgumentError(
                f"an event's fn is NaN at t = {t:.6g}; it is a number there and all along"
            )
        return number


@dataclass(frozen=True)
class Seen:
    """The time of an event and its index in the list."""

    t: float
    event: int


def value_of(field: Field, event: Event, t: Any, y: Tensor) -> Tensor:
    """Return `fn` at a time and a packed state, handed over as f gets them."""
    value = event.fn(field.time(t), field.layout.unpack(field.seen(y)))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"an event's fn returns a real floating-point tensor, whose zeros are the events; got "
            f"{got}"
        )
    return value


def attached(field: Field, event: Event, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the time and the packed state of an event with the gradients of its time.

    `t` is the float64 time, 0-d or `[B]`, and `y` the state at that fixed time, differentiable.
    Along the solution g(t, y(t)) = 0 moves the time by -dg / (dg/dt + <dg/dy, f>); values do not
    change. Source: Chen, Amos, Nickel, Learning neural event functions, ICLR 2021, section 3.1.
    """
    live = value_of(field, event, t, y).to(torch.float64).reshape(t.shape)
    if not (live.requires_grad or y.requires_grad):
        return t, y
    with torch.no_grad():
        slope = field(t if t.dim() else float(t), y.detach())
    with torch.enable_grad():
        time, state = t.detach().requires_grad_(), y.detach().requires_grad_()
        value = value_of(field, event, time, state)
        pulls = torch.autograd.grad(value.sum(), [time, state], allow_unused=True)
    rate = torch.zeros_like(t) if pulls[0] is None else pulls[0]
    if pulls[1] is not None:
        along_solution = (pulls[1].conj() * slope).real.to(torch.float64)
        rate = rate + (by_row(along_solution).sum(1) if t.dim() else along_solution.sum())
    moved = t - (live - live.detach()) / torch.where(rate == 0.0, 1.0, rate)
    return moved, shifted(y, slope, moved - t)


def shifted(y: Tensor, slope: Tensor, delta: Tensor) -> Tensor:
    """Return `y + slope delta`, where `delta`, 0-d or `[B]`, is zero and carries a gradient."""
    scale = delta.to(y.dtype.to_real()).reshape(delta.shape + (1,) * (y.dim() - delta.dim()))
    return y + slope * scale


def later(problem: Any, delay: Tensor) -> Any:
    """Return a problem that starts later by `delay`, 0-d or `[B]`: zero, with a gradient.

    Starting later is starting from where f leads back to.
    """
    field, start = problem.field, problem.y0
    calls = field.calls
    with torch.no_grad():
        slope = field(problem.start if delay.dim() else problem.times[0], start.detach())
    problem.stats.f_calls += field.calls - calls
    return replace(problem, y0=shifted(start, slope, -delay))
