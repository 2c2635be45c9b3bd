"""What a control accepts as knots and values; behind it nothing is checked again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ode_core.errors import ArgumentError


def as_tensor(x: Any, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor as it is, a list or an array as one; raises ArgumentError."""
    try:
        return x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=dtype)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"{name} is a tensor or a list of numbers; got {x!r:.60}") from None


def as_knots(times: Any) -> Tensor:
    """Return `[K]` or `[B, K]` knots in float64 on the CPU; raises ArgumentError."""
    given = as_tensor(times, "times", torch.float64)
    if given.requires_grad:
        raise ArgumentError("the times of a control get no gradient; pass times.detach()")
    if given.dim() not in (1, 2) or given.numel() == 0 or given.is_complex():
        raise ArgumentError(
            f"times is [K], or [B, K] per sample, with K at least 1; got {list(given.shape)}"
        )
    knots = given.to("cpu", torch.float64, copy=True)
    known = torch.isfinite(knots)
    padded = knots.isnan() & (known.sum(-1, keepdim=True) <= torch.arange(knots.shape[-1]))
    allowed = known | padded if knots.dim() == 2 else known
    if not bool(allowed.all()) or not bool(known[..., 0].all()):
        raise ArgumentError(
            "times holds values that are not finite; only rows of [B, K] are padded, by NaN at "
            "their end"
        )
    if bool((knots.diff(dim=-1) <= 0.0).any()):
        raise ArgumentError(
            f"times rises from knot to knot; got {knots.reshape(-1)[:6].tolist()}: sort it, and "
            "write a jump of a 'hold' input as one knot"
        )
    return knots


def is_per_sample(knots: Tensor, values: Tensor, said: bool | None) -> bool:
    """Return whether values are per sample; raises ArgumentError where shapes do not fit.

    `said` is what the user said about it, None for nothing.
    """
    shared = knots.dim() == 1 and values.shape[:1] == knots.shape
    own = values.dim() > 1 and knots.shape in (values.shape[1:2], values.shape[:2])
    if shared and own and said is None:
        raise ArgumentError(
            f"values of shape {list(values.shape)} at {len(knots)} times can be read in two ways; "
            "say per_sample=True for [B, K, ...] or per_sample=False for [K, ...]"
        )
    if not {None: shared or own, True: own, False: shared}[said]:
        forms = ["[K, ...]"] * (said is not True) + ["[B, K, ...]"] * (said is not False)
        allowed = " or ".join(forms) if knots.dim() == 1 else "[B, K, ...]"
        raise ArgumentError(
            f"values is {allowed} for times {list(knots.shape)}"
            + ("" if said is None else f" and per_sample={said}")
            + f"; got {list(values.shape)}"
        )
    return own if said is None else said


def refuse_missing(knots: Tensor, values: Tensor, per_sample: bool) -> None:
    """Raise ArgumentError where values, `[K, ...]` or `[B, K, ...]`, are not known at a knot."""
    known = torch.isfinite(values.detach())
    while known.dim() > 1 + per_sample:
        known = known.all(-1)
    wanted = torch.isfinite(knots).to(values.device).expand_as(known)
    missing = int((~known & wanted).sum())
    if missing:
        raise ArgumentError(
            f"values holds NaN or infinite values at {missing} of {int(wanted.sum())} knots; leave "
            "those knots out (rows of [B, K] times are padded at the end by NaN), or fill them in"
        )
