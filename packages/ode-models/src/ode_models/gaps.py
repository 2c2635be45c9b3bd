"""Series with readings missing: straight lines across the gaps, and how much was read so far."""

from __future__ import annotations

import torch
from torch import Tensor


def across(times: Tensor, values: Tensor) -> Tensor:
    """Return values `[N, T, C]`, over time `[N, T]`, with straight lines across NaN.

    Before the first and after the last reading of a channel they stay as those are; a channel that
    was never read is 0.
    """
    present = ~values.isnan()
    length = values.shape[1]
    place = torch.arange(length, device=values.device)[None, :, None].expand(present.shape)
    before = torch.where(present, place, -1).cummax(1).values
    after = torch.where(present, place, length).flip(1).cummin(1).values.flip(1)
    low, high = (torch.where(before < 0, after, before), torch.where(after < length, after, before))
    low, high = low.clamp(max=length - 1), high.clamp(min=0)
    spread = times[..., None].expand(present.shape)
    first, last = spread.gather(1, low), spread.gather(1, high)
    width = torch.where(last > first, last - first, 1.0)
    share = ((spread - first) / width).clamp(0.0, 1.0)
    known = values.nan_to_num(nan=0.0)
    return torch.lerp(known.gather(1, low), known.gather(1, high), share)


def counts(times: Tensor, values: Tensor) -> Tensor:
    """Return how many readings of each channel there were so far, as parts of the row's times.

    `[N, T, C]` of values `[N, T, C]` at times `[N, T]`, NaN where the row has ended.
    """
    length = (~times.isnan()).sum(1).clamp(min=1)[:, None, None]
    return (~values.isnan()).to(values.dtype).cumsum(1) / length
