"""How a state lies in memory, as a Triton program takes it: flat, real, aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ode_core import Tolerance


class Flat(NamedTuple):
    """Tensors as flat real memory in one order, and a fresh tensor like them with its memory.

    `rows` is their number, each with a step size of its own, `size` that of reals in one.
    """

    tensors: list[Tensor]
    out: Tensor
    memory: Tensor
    rows: int
    size: int


def flat(y: Tensor, tensors: Sequence[Tensor], h: float | Tensor) -> Flat:
    """Return tensors like the state `y`, not empty, as a program takes them with steps `h`.

    Dense tensors with the state's own strides are taken as they lie, others are copied; with
    step sizes `[B]` each of the B rows is one stretch of memory.
    """
    count = h.numel() if isinstance(h, Tensor) else 1
    out = torch.empty_like(y)
    if count > 1 and out.stride(0) != out.numel() // count:
        out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    strides = out.stride()
    taken = [real(x if lies_so(x, strides) else torch.empty_like(out).copy_(x)) for x in tensors]
    memory = real(out)
    return Flat(taken, out, memory, count, memory.numel() // count)


def blocks_of(given: Flat, block: int, h: float | Tensor) -> tuple[int, int]:
    """Return how many blocks a row takes, and at multiples of how many entries they begin."""
    align = 16 // given.memory.element_size()
    if not isinstance(h, Tensor) or given.rows == 1 or given.size <= block:
        return -(-given.size // block), 1
    # A row that begins between two multiples of 16 bytes is met from the one before it.
    before = align - 1 if given.size % align else 0
    return -(-(given.size + before) // block), align


def lies_so(x: Tensor, strides: tuple[int, ...]) -> bool:
    """Return whether a tensor has these strides, is aligned to 16 bytes, and is what it holds."""
    return x.stride() == strides and x.data_ptr() % 16 == 0 and not x.is_conj() and not x.is_neg()


def real(x: Tensor) -> Tensor:
    """Return a dense tensor's memory, `[n]`; of a complex one real and imaginary parts in turn."""
    x = x.detach()
    parts = torch.view_as_real(x) if x.is_complex() else x
    return parts.as_strided((parts.numel(),), (1,))


# Spread over the state once a solve, not once a step.
_SPREAD: WeakKeyDictionary[Tolerance, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def allowances(tolerance: Tolerance, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return relative and absolute tolerance of each entry, real, with the strides of `like`."""
    held = _SPREAD.get(tolerance)
    if held is not None and held[0].stride() == like.stride() and held[0].shape == like.shape:
        return held
    dtype = like.dtype.to_real() if like.dtype.itemsize > 2 else torch.float32
    made = [
        torch.empty_like(like, dtype=dtype).copy_(
            torch.as_tensor(x, dtype=dtype, device=like.device)
        )
        for x in (tolerance.rtol, tolerance.atol)
    ]
    _SPREAD[tolerance] = (made[0], made[1])
    return made[0], made[1]


_CUT: WeakKeyDictionary[Tolerance, list[Tolerance]] = WeakKeyDictionary()


def by_segment(tolerance: Tolerance) -> list[Tolerance]:
    """Return the tolerance of each segment of a flat state, the same objects at every call."""
    if tolerance not in _CUT:
        made, start = [], 0
        for size in tolerance.segments:
            cut = slice(start, start + size)
            made.append(Tolerance(_cut(tolerance.rtol, cut), _cut(tolerance.atol, cut)))
            start += size
        _CUT[tolerance] = made
    return _CUT[tolerance]


def _cut(x: float | Tensor, cut: slice) -> float | Tensor:
    return x[cut] if isinstance(x, Tensor) and x.dim() else x
