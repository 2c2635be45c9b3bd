"""The directions in which a solve is differentiated forwards."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ode_core import UnsupportedError


class Basis:
    """The directions of differentiation: one for each real number in each tensor met so far."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._met: dict[int, tuple[Tensor, int]] = {}
        self.count = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, in the order in which they were met."""
        return tuple(x for x, _ in self._met.values())

    def meet(self, tensors: Iterable[Tensor]) -> None:
        """Add the directions of tensors not met before; UnsupportedError beyond the limit."""
        for x in tensors:
            if id(x) not in self._met:
                self._met[id(x)] = (x, self.count)
                self.count += _reals(x)
        if self.count > self._limit:
            largest = max(self.tensors, key=Tensor.numel)
            raise UnsupportedError(
                f"gradient='forward' carries a derivative along for each of {self.count} numbers "
                f"that require gradients, the largest tensor being of shape "
                f"{tuple(largest.shape)}, which pays off for some tens: take "
                f"gradient='checkpoint', whose cost does not depend on their number, or "
                f"Forward(limit={self.count})"
            )

    def along(self, x: Tensor) -> Tensor:
        """Return what each direction is in a tensor met before, `[P, ...]`, like the tensor."""
        start, numel = self._met[id(x)][1], x.numel()
        units = torch.zeros(self.count, numel, dtype=x.dtype, device=x.device)
        places = torch.arange(numel, device=x.device)
        units[start + places, places] = 1.0
        if x.is_complex():
            units[start + numel + places, places] = units.new_tensor(1j)
        return units.reshape(self.count, *x.shape)

    def gradients(self, slopes: Tensor) -> dict[int, Tensor]:
        """Return by id the gradients of the tensors from a real loss's slopes, `[P]`."""
        found = {}
        for x, start in self._met.values():
            parts = slopes[start : start + _reals(x)].to(x.device)
            if x.is_complex():
                parts = torch.complex(*parts.chunk(2))
            found[id(x)] = parts.to(x.dtype).reshape(x.shape)
        return found


def _reals(x: Tensor) -> int:
    return x.numel() * (2 if x.is_complex() else 1)
