"""The parameters' gradient so far, and what the step at hand would add to it."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ode_core import Tolerance
from ode_solvers.kernels.choose import for_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_solvers.gradients.augmented import Pulled

# An error is a sum already, and there are two at most.
_EACH = (((0, 1.0),), ((1, 1.0),))


class Totals:
    """The integrals of a df/dx over the accepted steps, in a dtype that holds both x and the state.

    `parameters` are the x; with `timed` the time is a last one. An attempted step adds up rows of
    its own: what it would add to the integrals, and one for each estimate of the error of that.
    Errors are measured against `tolerance`, the parameters' as one block, unless `semi`, the time's
    as another.
    """

    def __init__(
        self,
        parameters: tuple[Tensor, ...],
        state: Tensor,
        tolerance: Tolerance | None,
        *,
        semi: bool = False,
        timed: bool = False,
    ) -> None:
        self.parameters = parameters
        real = state.dtype.to_real()
        places: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for place, x in enumerate(parameters):
            places.setdefault((torch.promote_types(x.dtype, real), x.device), []).append(place)
        self._groups = [_Group(at, parameters, dtype) for (dtype, _), at in places.items()]
        self._clock: list[_Group] = []
        if timed:
            clock = torch.zeros((), dtype=torch.float64, device=state.device)
            self._clock = [_Group([len(parameters)], (*parameters, clock), torch.float64)]
        blocks = (self._clock,) if semi else (self._groups, self._clock)
        self._blocks: list[list[_Group]] = []
        if tolerance is not None:
            self._tolerance = Tolerance(_middle(tolerance.rtol), _middle(tolerance.atol))
            self._blocks = [block for block in blocks if block]

    @property
    def eps(self) -> float:
        """The rounding of the first sum."""
        return torch.finfo(self._groups[0].total.dtype).eps

    @property
    def controlled(self) -> bool:
        """Whether errors are measured."""
        return bool(self._blocks)

    @property
    def along(self) -> Tensor:
        """The integral of a df/dt, zero unless `timed`."""
        return sum((group.total.sum() for group in self._clock), torch.zeros(()))

    def gradients(self) -> list[Tensor]:
        """Return the gradients in the parameters' dtypes."""
        found = dict(chain.from_iterable(group.shares() for group in self._groups))
        # A gradient of its own, not a part of a longer tensor.
        return [found[i].to(x.dtype, copy=True) for i, x in enumerate(self.parameters)]

    def begin(self, rows: int) -> None:
        """Forget what the last attempt has added up; there are `rows` rows from now on."""
        for group in (*self._groups, *self._clock):
            group.begin(rows)

    def take(self, pulled: Pulled, weights: Sequence[float]) -> None:
        """Add a df/dx, by place, to every row with its weight."""
        if pulled:
            for group in (*self._groups, *self._clock):
                group.take(pulled, weights)

    def accept(self) -> None:
        """Add what the last attempt has added up."""
        for group in (*self._groups, *self._clock):
            group.total.add_(group.rows[0][0])

    def norms(self) -> tuple[float, ...]:
        """Return the scaled norm of each error that the last attempt has added up."""
        found: list[tuple[float, ...]] = []
        for block in self._blocks:
            sums = [group.squares(self._tolerance) for group in block]
            count = sum(group.total.numel() for group in block)
            found.append(tuple(math.sqrt(sum(row) / count) for row in zip(*sums, strict=True)))
        return tuple(max(row) for row in zip(*found, strict=True))


class _Group:
    """Integrals of one dtype as one flat tensor, so that no operation is done for each of them."""

    def __init__(self, places: list[int], tensors: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._places = places
        self._shapes = [tensors[i].shape for i in places]
        # Dense, in the order in which a gradient of the tensor is likely to be.
        self._strides = [torch.empty_like(tensors[i], device="meta").stride() for i in places]
        size = sum(tensors[i].numel() for i in places)
        self.total = torch.zeros(size, dtype=dtype, device=tensors[places[0]].device)
        self.rows: list[tuple[Tensor, list[Tensor]]] = []

    def begin(self, rows: int) -> None:
        for flat, _ in self.rows:
            flat.zero_()
        while len(self.rows) < rows:
            flat = torch.zeros_like(self.total)
            self.rows.append((flat, self._parts(flat)))

    def take(self, pulled: Pulled, weights: Sequence[float]) -> None:
        pairs = [(at, pulled[place]) for at, place in enumerate(self._places)]
        grads = [grad for _, grad in pairs if grad is not None]
        for (_, parts), weight in zip(self.rows, weights, strict=True):
            if weight != 0.0 and grads:
                own = [parts[at] for at, grad in pairs if grad is not None]
                torch._foreach_add_(own, grads, alpha=weight)

    def shares(self) -> list[tuple[int, Tensor]]:
        return list(zip(self._places, self._parts(self.total), strict=True))

    def squares(self, tolerance: Tolerance) -> list[float]:
        """Return the sum of squares of each scaled error."""
        (step, _), *errors = self.rows
        kernel, end = for_state(self.total), torch.add(self.total, step)
        h, flats = kernel.prepare(1.0, end), [flat for flat, _ in errors]
        _, norms = kernel.finish(self.total, end, h, (), _EACH[: len(flats)], flats, tolerance)
        return [norm * norm * end.numel() for norm in norms]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        parts, start = [], 0
        for shape, strides in zip(self._shapes, self._strides, strict=True):
            parts.append(flat.as_strided(shape, strides, start))
            start += parts[-1].numel()
        return parts


def _middle(value: float | Tensor) -> float:
    return value if not isinstance(value, Tensor) else float(value.median())
