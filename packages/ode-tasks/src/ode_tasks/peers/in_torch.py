"""What every peer that solves in torch shares: a counted call, a loss and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ode_tasks.peers.contest import BACKWARD, Outcome, Prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from ode_tasks.peers.fields import Field
    from ode_tasks.peers.works import Posed

    # From a field and a start to the states [T, ...].
    Solve = Callable[[nn.Module, Tensor], Tensor]


class Counted(nn.Module):
    """A field that counts its calls."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return what the field returns."""
        self.calls += 1
        out: Tensor = self.field(t, y)
        return out


def prepared(
    posed: Posed,
    direction: str,
    solve: Solve,
    steps: Callable[[int], int],
    *,
    compiles: bool = False,
) -> Prepared:
    """Return the solve, ready to be timed; `steps` gives attempted steps from calls of f."""

    def run() -> object:
        if direction == BACKWARD:
            return differentiated(posed, posed.field, solve)[1]
        with torch.no_grad():
            return solve(posed.field, posed.y0)

    def outcome() -> Outcome:
        counted = Counted(posed.field)
        if direction == BACKWARD:
            calls: list[int] = []
            ys, gradient = differentiated(
                posed, counted, solve, lambda: calls.append(counted.calls)
            )
            (forward,) = calls
        else:
            with torch.no_grad():
                ys, gradient = solve(counted, posed.y0), None
            forward = counted.calls
        return Outcome(ys.cpu(), gradient, forward, counted.calls - forward, steps(forward))

    return Prepared(run, outcome, compiles)


def differentiated(
    posed: Posed,
    field: nn.Module,
    solve: Solve,
    solved: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Return the states and the flat gradient of `loss`; `solved` is called between the passes."""
    y0 = posed.y0.detach().requires_grad_()
    ys = solve(field, y0)
    solved()
    found = torch.autograd.grad(loss(ys), [y0, *posed.field.parameters()])
    return ys.detach(), torch.cat([part.flatten() for part in found])


def loss(ys: Tensor) -> Tensor:
    """Return half of the sum of squares of the last state."""
    return 0.5 * ys[-1].square().sum()
