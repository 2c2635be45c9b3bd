"""Batches of tensors, shuffled or in order, and the part of each that one process gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ode_core.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

Batch: TypeAlias = tuple[Tensor, ...]
"""Tensors that belong together, `[B, ...]` each."""


@dataclass(frozen=True)
class Batches:
    """Batches of `size` of tensors that share dim 0.

    With a `generator` the order is drawn anew by each pass, and a last batch that is not full is
    left out, unless it is the only one. Of every batch, process `rank` of `processes` gets an equal
    part.
    """

    tensors: Batch
    size: int
    generator: torch.Generator | None = None
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        count = len(self.tensors[0])
        if self.generator is not None and count >= self.size:
            return count // self.size
        return math.ceil(count / self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Draw an order and yield its batches."""
        return self.after(0)

    def after(self, done: int) -> Iterator[Batch]:
        """Draw an order and yield its batches but for the first `done`."""
        count = len(self.tensors[0])
        order = torch.arange(count)
        if self.generator is not None:
            order = torch.randperm(count, generator=self.generator)
        for number in range(done, len(self)):
            chosen = order[number * self.size : (number + 1) * self.size]
            chosen = chosen.tensor_split(self.processes)[self.rank]
            yield tuple(tensor[chosen] for tensor in self.tensors)

    def state(self) -> Tensor | None:
        """Return the state of the generator, None where the order is always the same."""
        return None if self.generator is None else self.generator.get_state()

    def set_state(self, state: Tensor | None) -> None:
        """Put back what `state` returned: the next pass draws the order that it drew then."""
        if self.generator is not None and state is not None:
            self.generator.set_state(state)

    def part(self, rank: int, processes: int) -> Batches:
        """Return what one of so many processes gets; raises ArgumentError for unequal parts."""
        size = min(self.size, len(self.tensors[0]))
        if size % processes:
            raise ArgumentError(
                f"a batch of {size} is in no equal parts for {processes} processes; take "
                f"a multiple of {processes}, --set batch=..."
            )
        return replace(self, rank=rank, processes=processes)


def loader(tensors: Batch, size: int, *, seed: int | None = None) -> Batches:
    """Return batches of tensors that share dim 0; shuffled each epoch where a seed is given.

    Shuffled batches, which are for training, all have the same size where the data fill one.
    """
    shuffle = None if seed is None else torch.Generator().manual_seed(seed)
    return Batches(tuple(tensors), size, shuffle)
