"""Where backward solves of samples with their own times begin, stop and meet stored states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ode_core.rows import by_row
from ode_core.samples import Stops

if TYPE_CHECKING:
    from ode_core.samples import SampleProblem


class Jumps:
    """Both sides of every sample's jumps, `[B, J]` times, NaN where there is none.

    `first` is `[B]`, where f was called first.
    """

    def __init__(self, problem: SampleProblem) -> None:
        stops = Stops.of(problem)
        self._sign = problem.direction[:, None]
        self.first = stops.begin
        real = torch.arange(stops.end.shape[1], device=stops.end.device) < stops.count[:, None]
        apart = real & (stops.end != stops.resume)
        some = apart.any(0)
        self.before = torch.where(apart, stops.end, math.nan)[:, some]
        self.after = torch.where(apart, stops.resume, math.nan)[:, some]

    def stored(self, times: Tensor) -> Tensor:
        """Return the times, `[B, n]`, of states that were stored for those: a jump's near side."""
        ahead = times * self._sign
        for before, after in self._sides():
            between = (ahead > before * self._sign) & (ahead <= after * self._sign)
            times = torch.where(between, before, times)
        return times

    def met(self, times: Tensor) -> Tensor:
        """Return where steps back to those times end first: a jump's far side."""
        for before, after in self._sides():
            times = torch.where(times == before, after, times)
        return times

    def resumed(self, ends: Tensor) -> Tensor:
        """Return where steps back go on from their ends."""
        for before, after in self._sides():
            ends = torch.where(ends == after, before, ends)
        return ends

    def _sides(self) -> list[tuple[Tensor, Tensor]]:
        """Return both sides of one jump of all samples after another, `[B, 1]` each."""
        pairs = zip(self.before.unbind(1), self.after.unbind(1), strict=True)
        return [(before[:, None], after[:, None]) for before, after in pairs]


class Impulses:
    """Every sample's outputs, from the last that has a gradient to the first after its start.

    `begin` is `[B]`, where the last one is, and the sample's start where there is none.
    """

    def __init__(self, problem: SampleProblem, jumps: Jumps, grad_ys: Tensor, ys: Tensor) -> None:
        self._grads, self._sign = grad_ys, problem.direction
        times = problem.ts.detach()
        finite = by_row(ys.flatten(0, 1).isfinite()).all(1).view(times.shape[::-1]).T
        # Beyond a failure there are no states.
        reached = finite & ~times.isnan()
        stored = jumps.stored(times)
        self._ahead = torch.where(reached, stored * problem.direction[:, None], math.inf)
        self._ahead = self._ahead.contiguous()
        self.at_start = times == problem.start[:, None]
        nonzero = by_row(grad_ys.flatten(0, 1) != 0).any(1).view(times.shape[::-1]).T
        self.asked = reached & ~self.at_start & nonzero
        columns = torch.arange(1, times.shape[1] + 1, device=times.device)
        self._left = torch.where(self.asked, columns, 0).amax(1)
        self._still = self.at_start.sum(1)
        self.times = torch.where(self.asked, stored, math.nan)
        last = stored.gather(1, (self._left - 1).clamp(min=0)[:, None])[:, 0]
        self.begin = torch.where(self._left > 0, last, jumps.first)

    def take(self, rows: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the outputs from the last one taken to those at `t`, both `[n]`, add up to.

        Beside the sums, `[n, ...]`, there are the columns of outputs at `t` itself, -1 where there
        is none, and a mask of the rows in which anything was added.
        """
        ahead, key = self._ahead[rows], t * self._sign[rows]
        low = torch.searchsorted(ahead, key[:, None])[:, 0].maximum(self._still[rows])
        count = (self._left[rows] - low).clamp(min=0)
        self._left[rows] = self._left[rows].minimum(low)
        grads = torch.zeros_like(self._grads[0])[rows]
        some = torch.zeros_like(count, dtype=torch.bool)
        for k in range(int(count.max())):
            column = torch.where(count > k, low + k, 0)
            asked = self.asked[rows, column] & (count > k)
            which = asked.nonzero()[:, 0]
            grads[which] += self._grads[column[which], rows[which]]
            some |= asked
        here = ahead.gather(1, low.clamp(max=ahead.shape[1] - 1)[:, None])[:, 0] == key
        return grads, torch.where(here & (count > 0), low, -1), some


def stops_back(jumps: Jumps, sign: Tensor, begin: Tensor, places: Tensor) -> Stops:
    """Return the stops of steps back from `begin`, `[B]`: places, `[B, n]`, jumps, and the start.

    Places are NaN where there is none; `sign` is `[B]`, the direction of the forward solve.
    """
    first = jumps.first[:, None]
    ends = torch.cat([jumps.met(places), jumps.after, first], 1)
    key = ends * sign[:, None]
    inside = (key < (begin * sign)[:, None]) & (key > first * sign[:, None])
    inside[:, -1] = True
    key = torch.where(inside, key, -math.inf).sort(1, descending=True).values
    # Equal ones are one.
    key[:, 1:][key[:, 1:] == key[:, :-1]] = -math.inf
    key = key.sort(1, descending=True).values
    count = (key > -math.inf).sum(1)
    ends = torch.where(key > -math.inf, key * sign[:, None], first)[:, : int(count.max())]
    return Stops(ends, jumps.resumed(ends), count, begin)
