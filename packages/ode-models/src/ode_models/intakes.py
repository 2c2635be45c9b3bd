"""Meals and insulin as an input u(t): what was taken in, and how it arrives in the blood."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ode_core import ArgumentError

_HOURS = 0.75
"""Time constant to begin with, between those of a rapid insulin and of a mixed meal."""


class Intakes(NamedTuple):
    """What each row took in: `times` `[B, K]`, hours; `amounts` `[B, K, C]` of C kinds.

    Amounts are of size 1; where there were fewer intakes than K, they are 0.
    """

    times: Tensor
    amounts: Tensor


class Absorption(nn.Module):
    """u(t) of intakes by two compartments in a row, with one learned time constant a kind.

    An amount a at time s appears at the rate a (t - s) / tau^2 exp(-(t - s) / tau) from s on, so
    that u is smooth for the solver and an intake before the origin goes on to work after it.

    Source of the shape: Hovorka et al. 2004, Physiological Measurement 25, 905-920, equation 5.
    """

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.log_hours = nn.Parameter(torch.full((kinds,), _HOURS).log())

    def forward(self, t: Tensor, intakes: Intakes) -> Tensor:
        """Return u `[B, L, C]` at times `[B, L]`, hours."""
        rate = (-self.log_hours).exp()
        passed = (t.unsqueeze(-1) - intakes.times.unsqueeze(1)).clamp_min(0.0).unsqueeze(-1) * rate
        shares = rate * passed * torch.exp(-passed)
        return (shares * intakes.amounts.unsqueeze(1)).sum(2)


def as_intakes(kinds: int, times: Tensor | None, amounts: Tensor | None) -> Intakes | None:
    """Return what a model was given; None for a model without such inputs.

    Raises ArgumentError where that is not what the model was made for.
    """
    given = 0 if amounts is None else amounts.shape[-1]
    if given != kinds or (times is None) != (amounts is None):
        raise ArgumentError(
            f"the model was made with controls={kinds} kinds of intake, and is given {given}; pass "
            "their times [B, K] and amounts [B, K, controls] after the mask, or neither"
        )
    return None if times is None or amounts is None else Intakes(times, amounts)
