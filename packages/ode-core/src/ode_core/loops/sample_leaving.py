"""Whether samples that have finished may leave the batch, and when that pays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ode_core.loops.sample_part import Part
from ode_core.numbers import tensor

Evaluate: TypeAlias = Callable[[Any, Tensor], Tensor]

# So many entries of finished rows are worth copying the rest.
_WORTH = 1 << 16


def pays(part: Part) -> bool:
    """Return whether to go on with the live rows alone is less work."""
    active, batch = part.active, len(part.y)
    return (
        batch > 1
        and active < batch
        and (2 * active <= batch or (batch - active) * (part.y.numel() // batch) >= _WORTH)
    )


def alike(f: Evaluate, part: Part, keep: Tensor) -> bool:
    """Return whether f gives a part of the batch what it gives the whole.

    It does not where it closes over tensors of the whole batch, or mixes samples. What it costs to
    find out is no sample's.
    """
    calls = part.field.calls
    try:
        return _same(f, part, keep)
    finally:
        part.base += part.field.calls - calls


def _same(f: Evaluate, part: Part, keep: Tensor) -> bool:
    t = tensor(part.t)
    with torch.no_grad():
        whole = f(t, part.y)[keep]
        try:
            alone = f(t[keep], part.y[keep])
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
        if alone.shape != whole.shape:
            return False
        slack = math.sqrt(torch.finfo(whole.dtype).eps)
        return bool((alone - whole).abs().max() <= slack * whole.abs().max())
