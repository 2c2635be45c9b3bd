"""ODENet: a residual network whose blocks are ODEs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ode_models.block import ODEBlock
from ode_models.fields import ConvField
from ode_models.resnet import head, stages, stem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ode_core import GradientMethod, Solver


class ODENet(nn.Module):
    """Stem, ODE blocks over [0, 1] and head: images `[B, channels, H, W]` to logits `[B, classes]`.

    Stem, stages, head and width are those of `ResNet`; one Euler step of size 1 with a field that
    does not see the time is exactly one of its residual blocks.

    Source: Chen et al., Neural ordinary differential equations, NeurIPS 2018, section 3.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        blocks: Sequence[int] = (1,),
        *,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem(channels, width, len(blocks))
        self.blocks, wide = stages(
            width,
            blocks,
            lambda wide: ODEBlock(
                ConvField(wide), solver=solver, gradient=gradient, rtol=rtol, atol=atol, dt=dt
            ),
        )
        self.head = head(wide, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, classes]`."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits
