"""An Adams step pulled back: all of it but f is linear in the past."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ode_core.replay import recorded
from ode_solvers.multistep.window import on_host, rows_of

if TYPE_CHECKING:
    from ode_core.protocols import VectorField
    from ode_solvers.reversible import Pull


class Past(NamedTuple):
    """The differences `phi`, `[K, ...]`, of a step of size `size`, and what weighs them.

    `sums`, `[K, K]`, gives the slopes extrapolated to the end of the step with 1 to K terms,
    `mean`, `[K]`, the mean slope with `terms` of the `known` ones; `added` weighs a corrector's.
    """

    phi: Tensor
    size: float
    sums: Tensor
    mean: Tensor
    terms: int
    known: int
    added: float


def past_of(span: tuple[float, float], carry: tuple[Tensor, Tensor]) -> Past:
    """Return the past of a step from the carry with which it begins."""
    phi, size, numbers = carry[0], span[1] - span[0], on_host(carry[1].detach())
    _, means, rows = rows_of(float(size), numbers.tobytes())
    terms, known = int(numbers[0]), 1 + int(np.count_nonzero(numbers[1:]))
    weights = torch.as_tensor(rows, device=phi.device).to(phi.dtype)
    return Past(phi, size, weights[:-1], weights[-1], terms, known, float(means[terms]))


def pull_back(
    past: Past,
    f: VectorField,
    t1: float,
    states: tuple[Tensor, Tensor],
    grads: tuple[Tensor, tuple[Tensor, Tensor]],
    pull: Pull,
    *,
    corrects: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the gradients of the state and the carry before a step from those after it.

    `states` are those at both ends. Nothing is computed again but f, and what it is given.
    """
    (y, y1), (grad, (after, still)) = states, grads
    size, count = past.size, len(past.phi)
    phi, after = past.phi.reshape(count, -1), after.reshape(count, -1)
    with torch.no_grad():
        # Every difference begins with the slope at the end.
        grad = grad + pull(*recorded(partial(f, t1), y1), after.sum(0).view_as(y1))
        ends, rows = [], []
        if corrects:
            # y1 = p + size added (f(p) - the slope extrapolated to there)
            p = torch.add(y, (past.mean @ phi).view_as(y), alpha=size)
            term = grad * (size * past.added)
            grad = grad + pull(*recorded(partial(f, t1), p), term)
            ends, rows = [term.flatten()], [-past.sums[past.terms - 1]]
        mixed = torch.stack([*rows, size * past.mean], 1)
        found = mixed @ torch.stack([*ends, grad.flatten()])
        found.addmm_(past.sums[:-1].T, after[1:], alpha=-1)
    return grad, (found.view_as(past.phi), torch.zeros_like(still))
