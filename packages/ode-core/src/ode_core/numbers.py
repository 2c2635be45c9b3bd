"""The few numbers of each sample, `[B]`: NumPy arrays where the clock is on the host, else tensors.

On a CPU an operation of NumPy on so few numbers takes a third of the time of one of torch, and
shares their memory. Elsewhere they stay on the device, where looking at one would wait for it.
Operators mean the same on both, and the functions here are what they do not cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ode_core.transforms import transformed

Numbers: TypeAlias = Any
"""`[B]` or `[n]`, float64, int64 or bool: a NumPy array on the host, a tensor on a device."""


def numbers(x: Tensor) -> Numbers:
    """Return the numbers of a tensor, detached; on the CPU in its own memory where it has some."""
    x = x.detach() if x.requires_grad else x
    if not x.is_cpu:
        return x
    # Within a transform of torch.func a tensor has no memory that NumPy could share.
    return np.array(x.tolist()) if transformed() else x.numpy()


def tensor(x: Numbers) -> Tensor:
    """Return numbers as a tensor in the same memory."""
    return x if isinstance(x, Tensor) else torch.from_numpy(x)


def double(x: Numbers) -> Numbers:
    """Return numbers as float64."""
    return x.double() if isinstance(x, Tensor) else x.astype(np.float64)


def choose(mask: Numbers, yes: Any, no: Any) -> Numbers:
    """Return `yes` where the mask is true and `no` elsewhere, numbers or one number each."""
    return torch.where(mask, yes, no) if isinstance(mask, Tensor) else np.where(mask, yes, no)


def at_least(x: Numbers, bound: float) -> Numbers:
    """Return numbers raised to a bound."""
    return x.clamp(min=bound) if isinstance(x, Tensor) else np.maximum(x, bound)


def at_most(x: Numbers, bound: float) -> Numbers:
    """Return numbers lowered to a bound."""
    return x.clamp(max=bound) if isinstance(x, Tensor) else np.minimum(x, bound)


def larger(a: Numbers, b: Numbers) -> Numbers:
    """Return the larger one of each pair."""
    return torch.maximum(a, b) if isinstance(a, Tensor) else np.maximum(a, b)


def smaller(a: Numbers, b: Numbers) -> Numbers:
    """Return the smaller one of each pair."""
    return torch.minimum(a, b) if isinstance(a, Tensor) else np.minimum(a, b)


def refused(error: Numbers) -> Numbers:
    """Return errors with infinity in place of NaN."""
    if isinstance(error, Tensor):
        return error.nan_to_num(math.inf, math.inf, -math.inf)
    return np.fmin(error, math.inf)


def maybe(mask: Numbers, more_than: int = 0) -> bool:
    """Return whether any, or more than so many, are true; True where one would have to wait."""
    if isinstance(mask, np.ndarray):
        # The quickest of NumPy's ways to ask.
        return bool(np.count_nonzero(mask) > more_than)
    return not mask.is_cpu or int(mask.sum()) > more_than


def places(mask: Numbers) -> Numbers:
    """Return where a mask is true, `[n]` indices."""
    return mask.nonzero()[:, 0] if isinstance(mask, Tensor) else np.flatnonzero(mask)


def joined(parts: Sequence[Numbers]) -> Numbers:
    """Return numbers one after the other."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else np.concatenate(parts)
