"""A gated recurrent unit that is told of gaps, to compare a neural CDE with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GapGRU(nn.Module):
    """A GRU over readings, with what it is told of gaps, and a linear read-out of its last state.

    At each reading it sees the value of every channel (its last one where it is missing), whether
    it was read, and how long ago the reading before was.

    Source: Che et al., Recurrent neural networks for multivariate time series with missing values
    (2018), "GRU-simple".
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(2 * channels + 1, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, times: Tensor, values: Tensor) -> Tensor:
        """Return logits `[B, classes]` of series `[B, L, channels]` at times `[B, L]`, rising.

        A value that is NaN was not read. Rows end where their times are NaN.
        """
        values = values.to(self.head.weight.dtype)
        ended = times.isnan()
        values = values.masked_fill(ended[..., None], torch.nan)
        read = (~values.isnan()).to(values.dtype)
        gaps = torch.zeros_like(times).to(values)
        gaps[:, 1:] = times.diff(dim=1).nan_to_num(nan=0.0).to(values)
        hidden, _ = self.recurrent(torch.cat([held(values), read, gaps[..., None]], 2))
        last = (~ended).sum(1).clamp(min=1) - 1
        logits: Tensor = self.head(hidden[torch.arange(len(last)), last])
        return logits


def held(values: Tensor) -> Tensor:
    """Return values `[B, L, C]` with the one before in place of NaN, 0 before the first."""
    place = torch.arange(values.shape[1], device=values.device)[None, :, None]
    last = torch.where(values.isnan(), -1, place).cummax(1).values
    kept = values.nan_to_num(nan=0.0).gather(1, last.clamp(min=0))
    return torch.where(last >= 0, kept, 0.0)
