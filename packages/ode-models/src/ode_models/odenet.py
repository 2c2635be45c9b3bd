"""ODENet: a residual network whose blocks are ODEs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from ode_models.anode import check_augment
from ode_models.block import ODEBlock
from ode_models.fields import ConvField
from ode_models.resnet import head, stages, stem
from ode_models.rnode import RNODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import GradientMethod, Solver


class ODENet(nn.Module):
    """Stem, ODE blocks over [0, 1] and head: images `[B, channels, H, W]` to logits `[B, classes]`.

    Stem, stages, head and width are those of `ResNet`; one Euler step of size 1 with a field that
    does not see the time is exactly one of its residual blocks. `augment` channels of zeros join
    those of the stem, `kinetic` and `jacobian` are the weights of `RNODE` in every block.

    Source: Chen et al., Neural ordinary differential equations, NeurIPS 2018, section 3; Dupont,
    Doucet, Teh, Augmented neural ODEs, NeurIPS 2019.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        blocks: Sequence[int] = (1,),
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
        self.stem = stem(channels, width, len(blocks))
        self.augment = check_augment(augment)
        regulariser = RNODE(kinetic, jacobian) or None
        self.blocks, wide = stages(
            width + augment,
            blocks,
            lambda wide: ODEBlock(
                ConvField(wide),
                solver=solver,
                gradient=gradient,
                rtol=rtol,
                atol=atol,
                dt=dt,
                regulariser=regulariser,
            ),
        )
        self.head = head(wide, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, classes]`."""
        state = self.stem(images)
        if self.augment:
            state = F.pad(state, (0, 0, 0, 0, 0, self.augment))
        logits: Tensor = self.head(self.blocks(state))
        return logits
