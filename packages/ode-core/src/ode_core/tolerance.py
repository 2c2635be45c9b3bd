"""What error is allowed, and the scaled norm in which an estimate is measured against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.numbers import double, maybe, numbers, refused, tensor
from ode_core.rows import by_row, take

NORM = "root mean square of error / (atol + rtol max(|y0|, |y1|))"


@dataclass(frozen=True, eq=False)
class Tolerance:
    """What error is allowed: `atol + rtol max(|y0|, |y1|)` for each entry of the state.

    `rtol` and `atol` are numbers or tensors that broadcast to the state. `segments` are sizes that
    add up to those of a flat state: the norm is then the largest of the segments' norms, so that a
    long segment cannot hide a short one.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, eq. II.4.10-4.11.
    """

    rtol: float | Tensor
    atol: float | Tensor
    segments: tuple[int, ...] = ()

    def norm(self, error: Tensor, y0: Tensor, y1: Tensor) -> float:
        """Return the scaled norm of an error estimate, infinite where it or `y1` is not finite.

        `error`, `y0` and `y1` have the state's shape and dtype. One value is read from the device.
        """
        if error.numel() == 0:
            return 0.0
        with torch.no_grad():
            # A bounded error beside an infinite state would be accepted: 0 times y1 is NaN there.
            ratio = torch.add(_wide(error), _wide(y1), alpha=0.0)
            return self.root_mean_square(ratio.abs().div_(self.scale(y0, y1)))

    def scale(self, y0: Tensor, y1: Tensor) -> Tensor:
        """Return the allowed error of each entry, real, like the state, in fresh memory."""
        size = _wide(y0).abs()
        if y1 is not y0:
            size = torch.maximum(size, _wide(y1).abs())
        return size.mul_(self.rtol).add_(self.atol)

    def root_mean_square(self, ratio: Tensor) -> float:
        """Return the root mean square of scaled errors, or the largest one of the segments."""
        if not self.segments:
            return finite(_sum_of_squares(ratio).item() / ratio.numel())
        parts = ratio.split(self.segments)
        means = [_sum_of_squares(part) / part.numel() for part in parts if part.numel()]
        return finite(torch.stack(means).max().item())


def finite(mean_square: float) -> float:
    """Return the root of a mean of squares, infinite where it is NaN."""
    return math.sqrt(mean_square) if mean_square >= 0.0 else math.inf


def all_finite(x: Tensor) -> bool:
    """Return whether every entry of a tensor is finite; one value is read from the device."""
    x = x.detach()
    # A sum is one pass, and finite only if all entries are; it may overflow, though.
    return math.isfinite(abs(x.sum().item())) or bool(x.isfinite().all())


def _sum_of_squares(ratio: Tensor) -> Tensor:
    # A dot product is one pass and one kernel; it wants one stride.
    if ratio.is_contiguous():
        flat = ratio.view(-1)
        return torch.dot(flat, flat)
    return ratio.square().sum()


def _wide(x: Tensor) -> Tensor:
    # 16 bits are too few to accumulate in.
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@dataclass(frozen=True, eq=False)
class SampleTolerance(Tolerance):
    """The same for each row of a state `[B, ...]` on its own: norms are float64 `[B]` tensors."""

    def norm(self, error: Tensor, y0: Tensor, y1: Tensor) -> Any:
        """Return the `[B]` scaled norms; nothing is read from the device."""
        if error.numel() == 0:
            return error.new_zeros(len(error), dtype=torch.float64)
        return super().norm(error, y0, y1)

    def root_mean_square(self, ratio: Tensor) -> Any:
        """Return the `[B]` root mean squares of scaled errors, infinite where one is NaN."""
        ratio = by_row(ratio) if ratio.dim() == 1 else ratio
        inner = tuple(range(1, ratio.dim()))
        # On a device the wider sum costs nothing; on a CPU it takes several times as long.
        wide = None if ratio.is_cpu else torch.float64
        norms = double(numbers(torch.linalg.vector_norm(ratio, dim=inner, dtype=wide)))
        if ratio.is_cpu and maybe(norms == math.inf):
            # Squares overflow long before their root.
            norms = numbers(torch.linalg.vector_norm(ratio, dim=inner, dtype=torch.float64))
        return tensor(refused(norms) * math.sqrt(len(ratio) / ratio.numel()))

    def rows(self, rows: Tensor) -> SampleTolerance:
        """Return the tolerance of the given rows, `[n]` indices."""
        return SampleTolerance(take(self.rtol, rows), take(self.atol, rows))
