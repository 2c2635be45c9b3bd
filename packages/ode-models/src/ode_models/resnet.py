"""The residual network that ODENet is compared with, and the control without any block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ode_models.fields import NO_TIME, ConvField, groups

if TYPE_CHECKING:
    from torch import Tensor


def stem(channels: int, width: int) -> nn.Sequential:
    """Return the layers in front of all networks, `[B, channels, H, W]` to a quarter of H and W."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(groups(width), width),
        nn.GELU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
        nn.GroupNorm(groups(width), width),
        nn.GELU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
    )


def head(width: int, classes: int) -> nn.Sequential:
    """Return the layers behind all three networks: `[B, width, H, W]` to logits `[B, classes]`."""
    return nn.Sequential(
        nn.GroupNorm(groups(width), width),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


class ResidualBlock(nn.Module):
    """y + f(y) with the field of an ODE block that does not see the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.field = ConvField(width, timed=False)

    def forward(self, y: Tensor) -> Tensor:
        """Return the sum, `[B, width, H, W]`."""
        new: Tensor = y + self.field(NO_TIME, y)
        return new


class ResNet(nn.Module):
    """Stem, residual blocks and head: images `[B, channels, H, W]` to logits `[B, classes]`."""

    def __init__(self, channels: int, classes: int, width: int, blocks: int = 6) -> None:
        super().__init__()
        self.stem = stem(channels, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.head = head(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, classes]`."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits


class NoBlock(nn.Module):
    """Stem and head with nothing between them: what the blocks of the others have to beat."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = stem(channels, width)
        self.head = head(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, classes]` for images `[B, channels, H, W]`."""
        logits: Tensor = self.head(self.stem(images))
        return logits
