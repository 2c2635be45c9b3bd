"""What a task gives for its gradients to be looked at: a batch, its loss, a model's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from ode_tasks.settings import Settings


class Probe(NamedTuple):
    """One training batch of a task.

    `size` are the options that the task builds its models with, `loss(model)` is the scalar loss of
    the batch, whose tensors are `inputs`.
    """

    settings: Settings
    size: Mapping[str, Any]
    loss: Callable[[nn.Module], Tensor]
    inputs: tuple[Tensor, ...]
