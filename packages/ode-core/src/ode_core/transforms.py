"""What the transforms of torch.func make of tensors, and what cannot be done with those."""

from __future__ import annotations

import torch
from torch import Tensor

_WRAPPED = torch._C._functorch.is_functorch_wrapped_tensor


def transformed() -> bool:
    """Return whether this runs within a transform of torch.func."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def mapped(x: Tensor) -> bool:
    """Return whether `vmap` has a dimension of a tensor, so that its values cannot be looked at."""
    while _WRAPPED(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def hidden(x: Tensor) -> bool:
    """Return whether a tensor's values cannot be looked at: under `vmap`, or in torch.compile."""
    return torch.compiler.is_compiling() or mapped(x)
