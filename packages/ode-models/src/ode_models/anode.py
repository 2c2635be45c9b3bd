"""A neural ODE on points, in more dimensions than they have if asked: an augmented neural ODE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from ode_core import ArgumentError
from ode_models.block import ODEBlock
from ode_models.fields import TimeMLPField
from ode_models.rnode import RNODE

if TYPE_CHECKING:
    from ode_core import GradientMethod, Solver


class ANODE(nn.Module):
    """Points `[B, dim]` flow over [0, 1] in `dim + augment` dimensions, then a linear read-out.

    The further dimensions begin at 0. Without them a flow is a homeomorphism of the points' own
    space, which cannot turn what lies inside a ring out of it; with one it goes around.
    `kinetic` and `jacobian` are the weights of `RNODE`.

    Source: Dupont, Doucet, Teh, Augmented neural ODEs, NeurIPS 2019.

    Raises ArgumentError for a negative `augment`, and what `ODEBlock` raises.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        width: int,
        *,
        augment: int = 0,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        self.augment = check_augment(augment)
        self.block = ODEBlock(
            TimeMLPField(dim + augment, width),
            solver=solver,
            gradient=gradient,
            rtol=rtol,
            atol=atol,
            dt=dt,
            regulariser=RNODE(kinetic, jacobian) or None,
        )
        self.head = nn.Linear(dim + augment, classes)

    def forward(self, points: Tensor) -> Tensor:
        """Return logits `[B, classes]`."""
        logits: Tensor = self.head(self.block(F.pad(points, (0, self.augment))))
        return logits


def check_augment(augment: int) -> int:
    """Return the number of further dimensions; raises ArgumentError where it is negative."""
    if augment < 0:
        raise ArgumentError(f"augment is a number of dimensions from 0; got {augment}")
    return augment
