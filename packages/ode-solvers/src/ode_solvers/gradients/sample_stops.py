"""Where backward solves of samples with their own times begin, stop and meet stored states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    """Every sample's outputs that have gradients, from the last one to the first after its start.

    `times` are `[B, T]`, NaN where there is none, `begin`, `[B]`, is the last one, and the sample's
    start where there is none.
    """

    def __init__(self, problem: SampleProblem, jumps: Jumps, grad_ys: Tensor, ys: Tensor) -> None:
        self._grads = grad_ys
        times = problem.ts.detach()
        self.at_start = times == problem.start[:, None]
        # Beyond a failure there are no states.
        nonzero = _of_rows(grad_ys != 0).any(2)
        reached = _of_rows(ys.isfinite()).all(2) & ~times.isnan()
        asked = reached & nonzero & ~self.at_start
        self.times = torch.where(asked, jumps.stored(times), math.nan)
        columns = torch.arange(times.shape[1], device=times.device)
        columns = torch.where(asked, columns, -1).sort(1, descending=True).values
        # The last column stays -1, for those that have none left.
        self._columns = torch.nn.functional.pad(
            columns[:, : int(asked.sum(1).max())], (0, 1), value=-1
        )
        self._next = torch.zeros_like(self._columns[:, 0])
        last = self.times.gather(1, self._columns[:, :1].clamp(min=0))[:, 0]
        self.begin = torch.where(self._columns[:, 0] < 0, jumps.first, last)

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return self._columns.shape[1] > 1

    def take(self, rows: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of the gradients at `t`, `[n]`, and a column of outputs there.

        The sums are `[n, ...]`; the column is -1 where there is none.
        """
        grads = torch.zeros_like(self._grads[0])[rows]
        found = torch.full_like(rows, -1)
        while True:
            column = self._columns[rows, self._next[rows]]
            here = (column >= 0) & (self.times[rows, column.clamp(min=0)] == t)
            which = here.nonzero()[:, 0]
            if not len(which):
                return grads, found
            some = rows[which]
            grads[which] += self._grads[column[which], some]
            found[which] = column[which]
            self._next[some] += 1


def _of_rows(x: Tensor) -> Tensor:
    """Return what is `[T, B, ...]` as `[B, T, n]`."""
    return x.transpose(0, 1).reshape(x.shape[1], x.shape[0], -1)


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
