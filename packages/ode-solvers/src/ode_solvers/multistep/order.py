"""Which order allows the longest step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Steps aim at a tenth of the error that is allowed. The estimate is no upper bound, the highest
# order is not the surest, and what is rejected has been evaluated in vain.
_RESERVE = 10.0
# A step grows by half at most: the differences are of slopes that lie as close as the last ones.
_SAFETY = 0.9
_LONGER = 1.5
# To go up is worth it only where it pays, because the higher estimate is the less certain one.
_BIAS = (1.0, 1.0, 0.9)


class Choice(NamedTuple):
    """What the controller is told of an error, and the number of terms of the next attempt."""

    error: Tensor
    terms: Tensor


def choose(errors: Tensor, terms: Tensor, known: Tensor, most: int, order: int) -> Choice:
    """Return the choice between one term less, as many, and one more.

    `errors`, `[..., 3]`, are scaled norms of the estimates with k - 1, k and k + 1 terms, the local
    errors of which go with the step to the powers k, k + 1 and k + 2; `terms` is k, `known` the
    number of differences there are. A controller that takes an error for one of `order` chooses the
    right step from the error that it is told: it is the power that has the same root.
    """
    candidates = terms[..., None] + torch.tensor([-1.0, 0.0, 1.0], device=terms.device).double()
    powers = candidates + 1.0
    lengths = (errors * _RESERVE).clamp_min(1e-30) ** (-1.0 / powers)
    lengths = lengths * torch.tensor(_BIAS, device=terms.device)
    usable = (candidates >= 1.0) & (candidates <= most) & (candidates <= known[..., None])
    best = torch.where(usable, lengths, -1.0).argmax(-1, keepdim=True)
    told = (errors * _RESERVE).gather(-1, best) ** (1.0 / powers.gather(-1, best))
    told = told.clamp_min(_SAFETY / _LONGER)[..., 0] ** order
    accepted = errors[..., 1] <= 1.0
    told = torch.where(accepted, told.clamp_max(1.0), told.clamp_min(1.0 + 1e-9))
    return Choice(told, candidates.gather(-1, best)[..., 0])
