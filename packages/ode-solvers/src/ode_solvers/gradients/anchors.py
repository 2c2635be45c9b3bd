"""The adjoint's safety belt: stored states, against which the backward solve's own are held."""

from __future__ import annotations

import warnings
from functools import reduce
from typing import TYPE_CHECKING

import torch

from ode_core import GradientWarning, SolveError, Tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# States kept from a short solve would cost more than they tell: its ends are known.
SPACING = 4
# In tolerances: what is set right at the end of a step, what makes a step end there, and what is
# no longer to be trusted.
NEAR, _INSIDE, FAR = 1.0, 5.0, 100.0
# Units of rounding that add up unseen, and a tolerance that no solve comes near to.
_ROUNDING, _FINE = 16, 1e-12


class Anchors:
    """At most `count` accepted states, evenly spread, of a solve whose length is not known ahead.

    Every fourth state is kept at first; where there are too many, every other one is dropped.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._spacing = SPACING
        self._seen = 0
        self.states: dict[float, Tensor] = {}

    def see(self, t: float, y: Tensor) -> None:
        """Keep an accepted state, or not."""
        self._seen += 1
        if self._count == 0 or self._seen % self._spacing:
            return
        self.states[t] = y
        if len(self.states) > self._count:
            kept = list(self.states.items())[1::2]
            self.states = dict(kept)
            self._spacing *= 2


def loosest(tolerances: Sequence[Tolerance], dtype: torch.dtype) -> Tolerance:
    """Return what the two solves of a state may differ by: tolerances, or what the dtype holds."""
    eps = _ROUNDING * torch.finfo(dtype).eps
    finest = [Tolerance(eps, eps)] if eps > _FINE else []
    return reduce(_looser, [*tolerances, *finest])


def _looser(a: Tolerance, b: Tolerance) -> Tolerance:
    return a if a is b else Tolerance(_larger(a.rtol, b.rtol), _larger(a.atol, b.atol))


def _larger(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    if isinstance(a, torch.Tensor):
        return a.maximum(torch.as_tensor(b, dtype=a.dtype, device=a.device))
    return _larger(b, a) if isinstance(b, torch.Tensor) else max(a, b)


class Belt:
    """What is done where the backward solve's state has left a stored one.

    `states` are the anchors by time. `strict` raises where the difference is beyond 100 tolerances;
    otherwise one warning is given.
    """

    def __init__(
        self,
        states: dict[float, Tensor],
        tolerance: Tolerance,
        advice: str,
        *,
        strict: bool,
    ) -> None:
        self.states = states
        self._tolerance = tolerance
        self._advice = advice
        self._strict = strict
        self._warned = False

    def left(self, t: float, rebuilt: Tensor, stored: Tensor, *, within: bool) -> bool:
        """Return whether the state at `t` has left the stored one by more than a tolerance.

        `within` a step, where its polynomial adds an error of its own, by more than a few. Raises
        SolveError, or warns, beyond 100 tolerances.
        """
        away = self._tolerance.norm(rebuilt - stored, stored, stored)
        if not away <= FAR:
            if self._strict:
                raise SolveError(
                    f"the backward solve of gradient='adjoint' left the forward solution: at "
                    f"t = {t:.6g} its state is {away:.3g} tolerances away, so that its gradient "
                    f"would be wrong; {self._advice}"
                )
            if not self._warned:
                self._warned = True
                # Without figures, so that a training run shows it once.
                warnings.warn(
                    "the backward solve of gradient='adjoint' left the forward solution by more "
                    f"than {FAR:.0f} tolerances, so that its gradient may be far off; "
                    f"{self._advice}",
                    GradientWarning,
                    stacklevel=2,
                )
        return not away <= (_INSIDE if within else NEAR)
