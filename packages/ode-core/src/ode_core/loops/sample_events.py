"""Events within per-sample steps: each sample has its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ode_core.errors import ArgumentError
from ode_core.events import Event, value_of
from ode_core.loops.crossings import NODES, brackets, polished
from ode_core.rows import where

if TYPE_CHECKING:
    from ode_core.loops.sample_march import SampleStep
    from ode_core.protocols import Interpolant
    from ode_core.samples import SampleProblem


@dataclass(frozen=True, eq=False)
class SampleEvents:
    """Events of one pass: `[B]` indices (-1 for none), times and packed states of each sample."""

    event: Tensor
    t: Tensor
    y: Tensor


class SampleWatch:
    """Looks for events within accepted steps; the whole batch stays, as `fn` may know its size.

    `ended` are the events that stopped samples, `seen` those that did not.
    """

    def __init__(self, problem: SampleProblem, begin: Tensor) -> None:
        self._problem, self._begin = problem, begin
        none = torch.full_like(problem.start, math.nan)
        self.ended = SampleEvents(
            torch.full_like(none, -1, dtype=torch.long), none, torch.full_like(problem.y0, math.nan)
        )
        self.seen: list[SampleEvents] = []

    def look(self, step: SampleStep, at: Interpolant) -> tuple[Tensor, Tensor]:
        """Return until when each row's step holds, and which rows an event has stopped."""
        events = self._problem.given.events
        with torch.no_grad():
            found = [self._zeros(event, step, at) for event in events]
            stop = torch.full_like(step.t0, math.inf)
            which = torch.full_like(step.rows, -1)
            for index, event in enumerate(events):
                if event.stops:
                    earliest = found[index].min(0).values if len(found[index]) else stop
                    which = torch.where(earliest < stop, index, which)
                    stop = torch.minimum(stop, earliest)
        halted = stop.isfinite()
        for index, event in enumerate(events):
            if not event.stops:
                for theta in found[index]:
                    self._see(index, theta, theta <= stop.clamp(max=1.0), step, at)
        until = step.until
        if bool(halted.any()):
            theta = torch.where(halted, stop, 1.0)
            t = step.t0 + theta * (step.t1 - step.t0)
            t = torch.where(theta == 1.0, step.t1, t)
            ended = self.ended
            self.ended = SampleEvents(
                torch.where(halted, which, ended.event),
                torch.where(halted, t, ended.t),
                where(halted, at(theta), ended.y),
            )
            until = torch.where(halted, t, until)
        return until, halted

    def _see(
        self, index: int, theta: Tensor, happened: Tensor, step: SampleStep, at: Interpolant
    ) -> None:
        if not bool(happened.any()):
            return
        theta = torch.where(happened, theta, 1.0)
        t = step.t0 + theta * (step.t1 - step.t0)
        y = at(theta)
        self.seen.append(
            SampleEvents(
                torch.where(happened, index, -1),
                torch.where(happened, t, math.nan),
                where(happened, y, torch.full_like(y, math.nan)),
            )
        )

    def _zeros(self, event: Event, step: SampleStep, at: Interpolant) -> Tensor:
        """Return the thetas of zeros, `[k, B]`, inf for none."""
        field = self._problem.field

        def g(theta: Tensor) -> Tensor:
            value = value_of(field, event, step.t0 + theta * (step.t1 - step.t0), at(theta))
            return value.to(torch.float64).reshape(len(theta))

        values = torch.stack([g(torch.full_like(step.t0, theta)) for theta in NODES])
        values = torch.where(step.accepted, values, 1.0)
        if bool(values.isnan().any()):
            row = int(values.isnan().any(0).nonzero()[0])
            raise ArgumentError(
                f"an event's fn is NaN for sample {row} between t = {float(step.t0[row]):.6g} and "
                f"{float(step.t1[row]):.6g}; it is a number all along"
            )
        fresh = step.t0 == self._begin
        lows, highs = brackets(values, event.direction, fresh=fresh)
        if not len(lows):
            return lows
        return torch.stack([polished(g, low, high) for low, high in zip(lows, highs, strict=True)])
