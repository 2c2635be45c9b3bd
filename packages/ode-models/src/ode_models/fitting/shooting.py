"""The least squares problem of multiple shooting: its unknowns, residuals and conditions.

Source: Bock, Recent advances in parameter identification techniques for ODE (1983): starts of
stretches are unknowns like the parameters, and that a stretch ends where the next begins is a
condition. Here the conditions are first weighed little and then more and more, so that the
stretches follow the data from the first iteration on whatever the parameters are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ode_models.fitting.levenberg import (
    Bounds,
    Found,
    Linearised,
    Loss,
    Penalty,
    Stop,
    minimise,
)
from ode_models.fitting.readings import Readings, Stretches
from ode_models.fitting.sensitivities import Equations

_WEIGHTS = (0.1, 1.0, 10.0, 100.0, 1000.0)
_ROUGHLY = 1e-3
_ROUNDS, _GAP = 8, 1e-8


class Unknowns(NamedTuple):
    """The starts of stretches, `[B, n]`, and the parameters in their units, `[P]`."""

    starts: Tensor
    parameters: Tensor

    def flat(self) -> Tensor:
        """Return both in one tensor, `[B n + P]`."""
        return torch.cat([self.starts.flatten(), self.parameters])

    def like(self, x: Tensor) -> Unknowns:
        """Return what `flat` makes a tensor of."""
        count = self.starts.numel()
        return Unknowns(x[:count].view_as(self.starts), x[count:])


class Fitted(NamedTuple):
    """The end of the search, and the most by which a stretch misses the next, in state units."""

    found: Found
    gap: float


@dataclass(eq=False)
class Shooting:
    """Stretches of readings, and the equations that they are to follow.

    `size` is the size of each entry of a state, `[n]`, by which the misses of stretches are
    measured. `f_calls` counts evaluations of f with its derivatives.
    """

    equations: Equations
    readings: Readings
    stretches: Stretches
    shape: Unknowns
    size: Tensor
    f_calls: int = 0

    def linearise(self, x: Tensor) -> Linearised:
        """Return residuals and conditions, with their Jacobians by the unknowns.

        They are not finite where a solve fails.
        """
        states, tangents = self.solved(x)
        residuals, by_row = self._misses(states, tangents, x)
        rows = self._counted().nonzero()[:, 1]
        conditions, slopes = self._joins(states, tangents, x)
        return Linearised(residuals, self._spread(by_row, rows), conditions, slopes)

    def solved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return states `[K, B, n]` and derivatives `[K, B, n + P, n]`, NaN after a failure."""
        starts, parameters = self.shape.like(x)
        times = self.stretches.times(self.readings)
        solution = self.equations.solved(starts, parameters * self.equations.unit, times)
        self.f_calls += int(torch.as_tensor(solution.stats.f_calls).max())
        states, tangents = solution.ys
        lacking = times.shape[1] - len(states)  # a shared solve that failed is cut off
        if lacking:
            pad = states.new_full((lacking, 1), torch.nan)
            states = torch.cat([states, pad[..., None].expand(-1, *states.shape[1:])])
            tangents = torch.cat([tangents, pad[..., None, None].expand(-1, *tangents.shape[1:])])
        return states, tangents

    def minimise(
        self, start: tuple[Tensor, Linearised], bounds: Bounds, loss: Loss, iterations: int
    ) -> Fitted:
        """Fit from unknowns and what `linearise` makes of them, which has to be finite."""
        x, at = start
        none = torch.zeros_like(at.conditions)
        if not len(none):
            alone = Penalty(0.0, none)
            found = minimise(self.linearise, start, bounds, loss, alone, Stop(iterations))
            return Fitted(found, 0.0)
        signal = float(self._signal())
        used = 0
        for weight in _WEIGHTS:
            stop = Stop(iterations - used, _ROUGHLY, _ROUGHLY)
            penalty = Penalty(weight * signal, none)
            found = minimise(self.linearise, (x, at), bounds, loss, penalty, stop)
            x, at, used = found.x, found.at, used + found.iterations
        shift = none
        for _ in range(_ROUNDS):
            penalty = Penalty(_WEIGHTS[-1] * signal, shift)
            stop = Stop(max(1, iterations - used))
            found = minimise(self.linearise, (x, at), bounds, loss, penalty, stop)
            x, at, used = found.x, found.at, used + found.iterations
            shift = shift + at.conditions
            if float(at.conditions.abs().max()) <= _GAP or used >= iterations:
                break
        gap = float(at.conditions.abs().max())
        met = found.converged and gap <= 100.0 * _GAP
        return Fitted(Found(x, at, used, met), gap)

    def _signal(self) -> Tensor:
        """Return the root mean square of the readings in units of their sigma."""
        values = self.readings.values / self.readings.sigma
        return values[self.readings.present].square().mean().sqrt()

    def _counted(self) -> Tensor:
        """Return which readings are residuals, `[K, B, M]` bool."""
        owner, places = self.stretches.trajectory[:, None], self.stretches.places.clamp(min=0)
        there = self.readings.present[owner, places] & self.stretches.counted[..., None]
        return there.transpose(0, 1)

    def _misses(self, states: Tensor, tangents: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals, `[R]`, and their derivatives by their own row, `[R, n + P]`."""
        parameters = self.shape.like(x).parameters * self.equations.unit
        owner, places = self.stretches.trajectory[:, None], self.stretches.places.clamp(min=0)
        times = self.readings.times[owner, places].transpose(0, 1).flatten()
        seen, along = self.equations.seen(
            times, states.flatten(0, 1), tangents.flatten(0, 1), parameters
        )
        counted = self._counted()
        shape = counted.shape
        values = self.readings.values[owner, places].transpose(0, 1)
        sigma = self.readings.sigma[owner, places].transpose(0, 1)
        residuals = ((seen.view(shape) - values) / sigma)[counted]
        by_row = along.transpose(1, 2).reshape(*shape, -1) / sigma[..., None]
        return residuals, by_row[counted]

    def _joins(self, states: Tensor, tangents: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much stretches miss the next, `[C]`, in units of `size`, and `[C, U]`."""
        starts = self.shape.like(x).starts
        rows, size = self.stretches.joined, starts.shape[1]
        ends = self.stretches.ends[rows]
        missed = (states[ends, rows] - starts[rows + 1]) / self.size
        by_row = tangents[ends, rows].transpose(1, 2) / self.size[:, None]
        slopes = self._spread(by_row.flatten(0, 1), rows.repeat_interleave(size))
        count = torch.arange(len(rows) * size)
        after = (rows[:, None] + 1) * size + torch.arange(size)
        slopes[count, after.flatten()] = -1.0 / self.size.repeat(len(rows))
        return missed.flatten(), slopes

    def _spread(self, by_row: Tensor, rows: Tensor) -> Tensor:
        """Return derivatives `[R, n + P]` by their row's start as those by all unknowns."""
        starts, parameters = self.shape
        size = starts.shape[1]
        out = by_row.new_zeros(len(by_row), starts.numel() + len(parameters))
        places = rows[:, None] * size + torch.arange(size)
        out.scatter_(1, places, by_row[:, :size])
        out[:, starts.numel() :] = by_row[:, size:]
        return out
