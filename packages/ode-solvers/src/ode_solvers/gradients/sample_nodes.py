"""Where the accepted steps of samples with their own steps have ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ode_core.rows import placed

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.loops.sample_march import SampleStep


class Nodes:
    """The ends of every sample's accepted steps, from `start`, `[B]`, on."""

    def __init__(self, start: Tensor) -> None:
        self._start = start
        self._count = torch.zeros_like(start, dtype=torch.long)
        self._places: list[tuple[Tensor, Tensor]] = []
        self._times: list[Tensor] = []

    def see(self, step: SampleStep) -> None:
        """Note the ends of a step's accepted rows."""
        rows = step.rows[step.accepted]
        self._places.append((self._count[rows], rows))
        self._times.append(step.t1[step.accepted])
        self._count[rows] += 1

    def times(self) -> Tensor:
        """Return them as `[B, N]`, padded with NaN."""
        return self._table(math.nan, self._times)

    def order(self) -> Tensor:
        """Return how many ends were noted before each of them, `[B, N]`."""
        noted = torch.arange(sum(map(len, self._times)), device=self._start.device)
        return self._table(0, list(noted.split([len(x) for x in self._times])))

    def _table(self, empty: float, values: list[Tensor]) -> Tensor:
        shape = int(self._count.max()) if len(self._count) else 0, len(self._count)
        dtype = values[0].dtype if values else self._start.dtype
        into = torch.full(shape, empty, dtype=dtype, device=self._start.device)
        return placed(into, self._places, values).T.contiguous()
