"""What a network is made of, and how far its gradient is from the exact one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ode_tasks import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def size_columns(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """Return the ODE blocks, the part of the parameters that they hold, and FLOPs for one sample.

    The FLOPs are those of a forward pass without gradients, a multiplication and an addition
    counted as two, as a mean over `inputs`, `[B, ...]`, because a solver may choose its steps by
    them. Products and convolutions are counted, sums and activations are not.
    """
    training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(inputs)
    model.train(training)
    blocks = measure.blocks(model)
    held = {id(p): p.numel() for block in blocks for p in block.parameters()}
    return {
        "ode_blocks": len(blocks),
        "ode_share": sum(held.values()) / sum(p.numel() for p in model.parameters()),
        "flops": counter.get_total_flops() / len(inputs),
    }


def gradient_columns(
    model: nn.Module, twin: nn.Module, loss: Callable[[nn.Module], Tensor]
) -> dict[str, Any]:
    """Return how far the gradient of the model's parameters is from that of its twin by `direct`.

    That is the norm of the difference over that of the exact gradient, and their cosine; None for
    a model that is its own twin.
    """
    names = ("gradient_error", "gradient_cosine")
    if twin is model:
        return dict.fromkeys(names)
    own, exact = (_gradient(net, loss).double() for net in (model, twin))
    error = (own - exact).norm() / exact.norm()
    cosine = torch.nn.functional.cosine_similarity(own, exact, dim=0)
    return dict(zip(names, (float(error), float(cosine)), strict=True))


def _gradient(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss(model), trained, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
    return torch.cat([part.flatten() for part in parts])
