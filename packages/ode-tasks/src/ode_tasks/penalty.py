"""What a model's blocks add to its loss in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def penalties(model: nn.Module) -> Tensor | float:
    """Return the sum of what the blocks left in `penalty` in their last call; 0 where none did."""
    left = (getattr(module, "penalty", None) for module in model.modules())
    return sum((penalty for penalty in left if penalty is not None), 0.0)
