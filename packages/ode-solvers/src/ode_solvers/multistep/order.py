"""Which order allows the longest step."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from ode_solvers.multistep.differences import Numbers, library

# Steps aim at a tenth of the error that is allowed. The estimate is no upper bound, the highest
# order is not the surest, and what is rejected has been evaluated in vain.
_RESERVE = 10.0
# A step grows by half at most: the differences are of slopes that lie as close as the last ones.
_SAFETY = 0.9
_LONGER = 1.5
# To go up is worth it only where it pays, because the higher estimate is the less certain one.
_BIAS = (1.0, 1.0, 1.1)


class Choice(NamedTuple):
    """What the controller is told of an error, and the number of terms of the next attempt."""

    error: Numbers
    terms: Numbers


def choose(errors: Numbers, terms: Numbers, known: Numbers, most: int, order: int) -> Choice:
    """Return the choice between one term less, as many, and one more.

    `errors`, `[..., 3]`, are scaled norms of the estimates with k - 1, k and k + 1 terms, the local
    errors of which go with the step to the powers k, k + 1 and k + 2; `terms` is k, `known` the
    number of differences there are. A controller that takes an error for one of `order` chooses the
    right step from the error that it is told: it is the power that has the same root.
    """
    lib = library(errors)
    offsets, bias, places = _constants(errors.device if lib is torch else None)
    candidates = terms[..., None] + offsets
    roots = (errors * _RESERVE) ** (1.0 / (candidates + 1.0))
    usable = (candidates >= 1.0) & (candidates <= most) & (candidates <= known[..., None])
    best = lib.argmin(lib.where(usable, roots * bias, np.inf), -1)
    chosen = places == best[..., None]
    told = lib.clip(lib.where(chosen, roots, 0.0).sum(-1), _SAFETY / _LONGER, np.inf) ** order
    here = errors[..., 1]
    refused = lib.where(lib.isinf(here), here, lib.clip(told, 1.0 + 1e-9, np.inf))
    told = lib.where(here <= 1.0, lib.clip(told, 0.0, 1.0), refused)
    return Choice(told, lib.where(chosen, candidates, 0.0).sum(-1))


@cache
def _constants(device: torch.device | None) -> tuple[Numbers, Numbers, Numbers]:
    offsets, bias = np.array([-1.0, 0.0, 1.0]), np.array(_BIAS)
    if device is None:
        return offsets, bias, np.arange(3)
    return (
        torch.from_numpy(offsets).to(device),
        torch.from_numpy(bias).to(device),
        torch.arange(3, device=device),
    )
