"""How long to train, and how the learning rate changes on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long to train and how the steps change.

    The learning rate rises over the first `warmup` epochs, falls along half a cosine to 0 with
    `cosine`, and is multiplied by `gamma` after each epoch of `milestones`: all three together
    where all are given. `clip` is the largest norm of a gradient. With `patience`, training stops
    after so many epochs without a better value of the column `watch` of the history, and the best
    weights are put back.
    """

    epochs: int
    cosine: bool = False
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    clip: float = math.inf
    patience: int | None = None
    watch: str = "test_score"
    higher_is_better: bool = True

    def factor(self, step: int, per_epoch: int) -> float:
        """Return what the learning rate is multiplied by in a step, counted from 0."""
        value = self.gamma ** sum(step >= epoch * per_epoch for epoch in self.milestones)
        if self.cosine:
            value *= 0.5 * (1.0 + math.cos(math.pi * step / (self.epochs * per_epoch)))
        if self.warmup:
            value *= min(1.0, (step + 1) / (self.warmup * per_epoch))
        return value
