"""How far a training run has come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Position:
    """How far training has come: plain data, which a checkpoint holds.

    `order` is the state of the batches' generator when `epoch` began, `batch` how many of them are
    done, and `sums` are over those.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    order: Tensor | None = None
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] | None = None

    def add(self, **values: float) -> None:
        """Add to the sums over this epoch's batches."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, Any]:
        """Return the columns that are means over this epoch's batches, None where not known."""
        names = {"train_loss": "loss", "f_forward": "forward", "f_backward": "backward"}
        sums = {column: self.sums.get(name) for column, name in names.items()}
        return {c: None if value is None else value / self.batch for c, value in sums.items()}
