"""A batch of initial value problems, each with its own times: the problem of per-sample steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import ArgumentError
from ode_core.field import Field
from ode_core.knots import knots_of
from ode_core.layout import SampleLayout
from ode_core.numbers import choose, double, maybe, numbers, tensor
from ode_core.problem import Given, as_times, check_callable, time_dtype_of, widened
from ode_core.solution import Stats


@dataclass(frozen=True, eq=False)
class SampleProblem:
    """A checked batch of B initial value problems.

    `y0` is the packed state `[B, ...]`, `ts` the `[B, T]` float64 times with rows padded at the end
    by NaN, `jumps` the `[B, J]` times where f is not smooth, ends included, in the direction of
    each sample and padded by NaN, or None. Other fields are those of `Problem`.
    """

    field: Field
    y0: Tensor
    ts: Tensor
    jumps: Tensor | None
    time_dtype: torch.dtype
    dtype: torch.dtype
    given: Given
    stats: Stats = dataclasses.field(default_factory=Stats)

    @property
    def layout(self) -> SampleLayout:
        """How the user's batch lies in `y0`."""
        return self.field.layout  # type: ignore[return-value]  # built with one

    @cached_property
    def start(self) -> Tensor:
        """The `[B]` first times, detached."""
        return self.ts.detach()[:, 0]

    @cached_property
    def end(self) -> Tensor:
        """The `[B]` last times, detached."""
        times = self.ts.detach()
        if not self.padded:
            return times[:, -1]
        count = (~times.isnan()).sum(1, keepdim=True)
        return times.gather(1, count - 1)[:, 0]

    @cached_property
    def padded(self) -> bool:
        """Whether a row of times is, or may be, padded."""
        last = numbers(self.grid[:, -1])
        return maybe(last != last)

    @cached_property
    def direction(self) -> Tensor:
        """The `[B]` signs of time, 1.0 forwards and -1.0 backwards."""
        ahead = numbers(self.end) >= numbers(self.start)
        return tensor(double(choose(ahead, 1.0, -1.0)))

    @property
    def grid(self) -> Tensor:
        """The times, detached: `[1, T]` where all samples share them, else `[B, T]`."""
        times = self.ts.detach()
        return times[:1] if times.stride(0) == 0 else times


def build_samples(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    given: Given,
    jump_times: Any = None,
    time_dtype: torch.dtype | None = None,
) -> SampleProblem:
    """Check what the user gave; raises ArgumentError with the sentence to read."""
    check_callable(f, given.args)
    layout, packed = SampleLayout.of(y0)
    dtype, packed = widened(packed)
    ts = _rows(as_times(t, "t"), len(packed), "t").to(_clock(packed))
    clock = time_dtype_of(time_dtype, dtype)
    field = Field(f, layout, packed, (clock, dtype), given.args)
    problem = SampleProblem(field, packed, ts, None, clock, dtype, given)
    if len(packed) == 0:
        return problem
    _check_times(problem)
    knots = knots_of(f, given.args)
    stops = [(as_times(jump_times, "jump_times"), "jump_times")] if jump_times is not None else []
    stops += [(knots, "the knots of the controls in f")] if knots is not None else []
    if not stops:
        return problem
    jumps = torch.cat([_rows(times, len(packed), name).to(ts.device) for times, name in stops], 1)
    return dataclasses.replace(problem, jumps=_inside(jumps, problem))


def _clock(packed: Tensor) -> torch.device:
    # Metal has no float64; its clock is on the host.
    return torch.device("cpu") if packed.device.type == "mps" else packed.device


def _rows(times: Tensor, batch: int, name: str) -> Tensor:
    if times.dim() == 1:
        return times.expand(batch, -1)
    if times.dim() != 2 or len(times) != batch:
        raise ArgumentError(
            f"{name} is [T], or [B, T] with a row for each of the {batch} samples; got shape "
            f"{tuple(times.shape)}"
        )
    return times


def _check_times(problem: SampleProblem) -> None:
    times = problem.ts.detach()
    if times.shape[1] == 0:
        raise ArgumentError("t has at least one time for each sample; got none")
    grid = numbers(problem.grid)
    sign = numbers(problem.direction)[: len(grid), None]
    rising = (grid[:, 1:] - grid[:, :-1]) * sign >= 0.0
    # A NaN compares with nothing, and falls through.
    if bool(rising.all()) and bool(abs(grid).max() < math.inf):
        return
    valid = ~times.isnan()
    padded = bool(valid[:, 0].all()) and not bool((valid[:, 1:] & ~valid[:, :-1]).any())
    if not padded or bool(times.isinf().any()):
        raise ArgumentError(
            "the rows of t are finite times, padded at their end with NaN; at least one has "
            "infinite values, no time at all, or a time after a NaN"
        )
    steps = times.diff(dim=1) * problem.direction[:, None]
    wrong = (steps < 0.0).any(1).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ArgumentError(
            f"each row of t runs one way, up or down; row {row} is {times[row].tolist()[:6]}"
        )


def _inside(jumps: Tensor, problem: SampleProblem) -> Tensor:
    sign = problem.direction[:, None]
    ahead = jumps * sign
    inside = (ahead >= problem.start[:, None] * sign) & (ahead <= problem.end[:, None] * sign)
    ordered = torch.where(inside, ahead, math.inf).sort(1).values
    ordered = torch.where(ordered.isinf(), math.nan, ordered)
    # Equal ones are one.
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = math.nan
    return ordered * sign


@dataclass(frozen=True, eq=False)
class Stops:
    """Where the steps of each sample must end: `[B, S]` times, and where the next begin.

    `count` is `[B]`, how many of a row's stops are real; `begin` is `[B]`, where f is first called.
    """

    end: Tensor
    resume: Tensor
    count: Tensor
    begin: Tensor

    @classmethod
    def of(cls, problem: SampleProblem) -> Stops:
        """Return both sides of every jump, as f sees time, and each sample's end."""
        last, sign = problem.end[:, None], problem.direction[:, None]
        if problem.jumps is None:
            ones = torch.ones_like(last[:, 0], dtype=torch.long)
            return cls(last, last, ones, problem.start)
        seen = problem.jumps.to(problem.time_dtype)
        far = torch.full_like(seen, math.inf) * sign.to(seen.dtype)
        before, after = torch.nextafter(seen, -far).double(), torch.nextafter(seen, far).double()
        # A jump nearer to an end than f can tell is no stop of its own.
        kept = (before - problem.start[:, None]) * sign > 0.0
        kept &= (last - after) * sign > 0.0
        order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
        count = kept.sum(1)
        ends = torch.cat([before.gather(1, order), last], 1)
        resumes = torch.cat([after.gather(1, order), last], 1)
        # A jump on an end is met from the inner side.
        first = problem.start[:, None]
        begin = _sided(problem.jumps == first, after, first)
        end = _sided(problem.jumps == last, before, last)
        room = (end - begin) * sign > 0.0
        begin, end = torch.where(room, begin, first), torch.where(room, end, last)
        ends.scatter_(1, count[:, None], end)
        resumes.scatter_(1, count[:, None], last)
        return cls(ends, resumes, count + 1, begin[:, 0])

    @property
    def jumped(self) -> bool:
        """Whether there may be other stops than the ends."""
        return self.end.shape[1] > 1

    def rows(self, rows: Tensor) -> Stops:
        """Return the stops of the given rows, `[n]` indices."""
        return Stops(self.end[rows], self.resume[rows], self.count[rows], self.begin[rows])


def _sided(at: Tensor, side: Tensor, otherwise: Tensor) -> Tensor:
    """Return the side, `[B, J]`, of the jump that is marked, as `[B, 1]`."""
    chosen = torch.where(at, side, 0.0).sum(1, keepdim=True)
    return torch.where(at.any(1, keepdim=True), chosen, otherwise)
