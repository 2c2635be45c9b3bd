"""The adjoint's safety belt with per-sample steps: every sample's own stored states."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch

from ode_core import GradientWarning, SolveError
from ode_core.rows import where
from ode_solvers.gradients.anchors import FAR, NEAR, SPACING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core.loops.sample_march import SampleStep
    from ode_core.tolerance import SampleTolerance


class SampleAnchors:
    """At most `count` accepted states of every sample, evenly spread, as `Anchors` keeps them.

    `times` are `[B, K]`, NaN where there is none, `states` `[B, K, ...]`.
    """

    def __init__(self, count: int, start: Tensor, y0: Tensor) -> None:
        self._count = count
        self._seen = torch.zeros_like(start, dtype=torch.long)
        self._spacing = torch.full_like(self._seen, SPACING)
        self._kept = torch.zeros_like(self._seen)
        self.times = start.new_empty(len(start), 0)
        self.states = y0.new_empty(len(y0), 0, *y0.shape[1:])

    def see(self, step: SampleStep) -> None:
        """Keep the accepted states of a step, or not."""
        rows = step.rows[step.accepted]
        self._seen[rows] += 1
        due = step.accepted & (self._seen[step.rows] % self._spacing[step.rows] == 0)
        which = due.nonzero()[:, 0]
        if self._count == 0 or not len(which):
            return
        rows = step.rows[which]
        if int(self._kept[rows].max()) == self.times.shape[1]:
            self._widen()
        self.times[rows, self._kept[rows]] = step.t1[which]
        self.states[rows, self._kept[rows]] = step.step.y[which]
        self._kept[rows] += 1
        full = rows[self._kept[rows] > self._count]
        if len(full):
            self._thin(full)

    def _widen(self) -> None:
        batch, most = len(self.times), 2 * self.times.shape[1] or 2
        more = min(most, self._count + 1) - self.times.shape[1]
        times, states = self.times, self.states
        self.times = torch.cat([times, times.new_full((batch, more), math.nan)], 1)
        self.states = torch.cat([states, states.new_zeros(batch, more, *states.shape[2:])], 1)

    def _thin(self, rows: Tensor) -> None:
        """Keep every other state of these rows, all of which are full."""
        left = self.times.shape[1] // 2
        times, states = self.times[rows, 1::2], self.states[rows, 1::2]
        self.times[rows] = math.nan
        self.times[rows, :left] = times
        self.states[rows, :left] = states
        self._kept[rows] = left
        self._spacing[rows] *= 2


class SampleBelt:
    """What is done where a sample's backward solve has left one of its stored states.

    The two solves that differ may have a tolerance each: the looser one counts. `strict` raises
    where the difference is beyond 100 tolerances; otherwise one warning is given.
    """

    def __init__(self, tolerances: Sequence[SampleTolerance], advice: str, *, strict: bool) -> None:
        self._tolerances, self._advice, self._strict = tolerances, advice, strict
        self._warned = False

    def left(
        self, rows: Tensor, t: Tensor, rebuilt: Tensor, stored: Tensor, known: Tensor
    ) -> Tensor:
        """Return which `rows`, `[n]`, have left a stored state by more than a tolerance.

        `known`, `[n]`, are those that have one. Raises SolveError, which names the samples, or
        warns, beyond 100 tolerances.
        """
        stored = where(known, stored, torch.zeros_like(stored))
        apart = where(known, rebuilt - stored, torch.zeros_like(stored))
        away = torch.stack(
            [x.rows(rows).norm(apart, stored, stored) for x in self._tolerances]
        ).amin(0)
        far = (~(away <= FAR)).nonzero()[:, 0]
        if len(far):
            if self._strict:
                raise self._lost(rows[far], t[far], away[far])
            if not self._warned:
                self._warned = True
                # Without figures, so that a training run shows it once.
                warnings.warn(
                    "the backward solve of gradient='adjoint' left the forward solution of a "
                    f"sample by more than {FAR:.0f} tolerances, so that its gradient may be far "
                    f"off; {self._advice}",
                    GradientWarning,
                    stacklevel=2,
                )
        return ~(away <= NEAR)

    def _lost(self, rows: Tensor, t: Tensor, away: Tensor) -> SolveError:
        row, others = int(rows[0]), rows[1:].tolist()
        also = "" if not others else " (as have samples " + ", ".join(map(str, others[:6])) + ")"
        return SolveError(
            f"the backward solve of gradient='adjoint' left the forward solution of sample {row}"
            f"{also}: at t = {float(t[0]):.6g} its state is {float(away[0]):.3g} tolerances away, "
            f"so that its gradient would be wrong; {self._advice}"
        )
