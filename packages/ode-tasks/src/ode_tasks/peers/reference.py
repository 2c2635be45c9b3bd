"""What the states and gradients should have been, in float64 and far below the tolerance."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch

from ode_core.api import solve
from ode_tasks import measure
from ode_tasks.peers.in_torch import loss

if TYPE_CHECKING:
    from torch import Tensor

    from ode_tasks.peers.contest import Outcome
    from ode_tasks.peers.works import Posed

_TIGHT = 1e-9


class Truth(NamedTuple):
    """States `[T, ...]` and, where it was asked for, the flat gradient, on the CPU in float64."""

    ys: Tensor
    gradient: Tensor | None

    def errors(self, outcome: Outcome) -> tuple[float, float | None]:
        """Return the relative root mean square errors of the states and of the gradient."""
        gradient = None
        if outcome.gradient is not None and self.gradient is not None:
            gradient = measure.relative_rms(outcome.gradient.cpu(), self.gradient)
        return measure.relative_rms(outcome.ys[1:], self.ys[1:]), gradient


def truth(posed: Posed, *, gradient: bool) -> Truth:
    """Return the solution by dopri8 and its gradient."""
    field = copy.deepcopy(posed.field).double()
    y0, t = posed.y0.detach().double().requires_grad_(gradient), posed.work.times
    if not gradient:
        return Truth(measure.reference(field, y0, t, tolerance=_TIGHT).cpu(), None)
    ys = solve(field, y0, t, solver="dopri8", gradient="checkpoint", rtol=_TIGHT, atol=_TIGHT).ys
    found = torch.autograd.grad(loss(ys), [y0, *field.parameters()])
    return Truth(ys.detach().cpu(), torch.cat([part.flatten() for part in found]).cpu())
