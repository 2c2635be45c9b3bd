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
    calls: Callable[[], tuple[int, int]] | None = None,
) -> Prepared:
    """Return the solve, ready to be timed; `steps` gives attempted steps from calls of f.

    Calls are counted, except where the solve is compiled with its field, and `calls` gives those
    of the last one.
    """

    def run() -> object:
        if direction == BACKWARD:
            return differentiated(posed, posed.field, solve)[1]
        with torch.no_grad():
            return solve(posed.field, posed.y0)

    def outcome() -> Outcome:
        counted, gradient = Counted(posed.field), None
        field = counted if calls is None else posed.field
        marks: list[int] = []
        if direction == BACKWARD:
            ys, gradient = differentiated(posed, field, solve, lambda: marks.append(counted.calls))
        else:
            with torch.no_grad():
                ys = solve(field, posed.y0)
        forward = marks[0] if marks else counted.calls
        forward, backward = (forward, counted.calls - forward) if calls is None else calls()
        return Outcome(ys.cpu(), gradient, forward, backward, steps(forward))

    return Prepared(run, outcome, calls is not None)


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
