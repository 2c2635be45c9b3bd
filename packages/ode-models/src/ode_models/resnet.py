"""The residual network that ODENet is compared with, and the control without any block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ode_core import ArgumentError
from ode_models.fields import NO_TIME, ConvField, groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


# At how many resolutions the images are looked at: whole, at half and at a quarter.
_RESOLUTIONS = 3


def stem(channels: int, width: int, stages: int = 1) -> nn.Sequential:
    """Return the layers in front of all networks, `[B, channels, H, W]` to `[B, width, h, w]`.

    With one stage of blocks `h` and `w` are a quarter of `H` and `W`, with two a half, with three
    the whole. Raises ArgumentError for more.
    """
    if not 1 <= stages <= _RESOLUTIONS:
        raise ArgumentError(
            f"blocks is how many blocks each of 1 to {_RESOLUTIONS} stages has; got {stages} stages"
        )
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
    for _ in range(_RESOLUTIONS - stages):
        layers += transition(width, width)
    return nn.Sequential(*layers)


def transition(width: int, wider: int) -> nn.Sequential:
    """Return `[B, width, H, W]` to `[B, wider, H / 2, W / 2]`."""
    return nn.Sequential(
        nn.GroupNorm(groups(width), width),
        nn.GELU(),
        nn.Conv2d(width, wider, 4, stride=2, padding=1),
    )


def stages(
    width: int, blocks: Sequence[int], make: Callable[[int], nn.Module]
) -> tuple[nn.Sequential, int]:
    """Return stages of blocks with transitions between them, and the width that they end with.

    `blocks` is how many each stage has, `make(width)` one of them; from stage to stage height and
    width are halved and the channels doubled.
    """
    layers: list[nn.Module] = []
    for number, count in enumerate(blocks):
        if number:
            layers.append(transition(width, 2 * width))
            width *= 2
        layers += [make(width) for _ in range(count)]
    return nn.Sequential(*layers), width


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
    """Stem, residual blocks and head: images `[B, channels, H, W]` to logits `[B, classes]`.

    `blocks` is how many blocks each stage has, one stage or up to three; `width` is the channels of
    the first, and every next one has twice those of the one before, at half the height and width.
    """

    def __init__(
        self, channels: int, classes: int, width: int, blocks: Sequence[int] = (6,)
    ) -> None:
        super().__init__()
        self.stem = stem(channels, width, len(blocks))
        self.blocks, wide = stages(width, blocks, ResidualBlock)
        self.head = head(wide, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, classes]`."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits


class NoBlock(ResNet):
    """What is left of the others without their blocks, which is what those have to beat.

    Of `blocks` only the number of stages counts.
    """

    def __init__(
        self, channels: int, classes: int, width: int, blocks: Sequence[int] = (1,)
    ) -> None:
        super().__init__(channels, classes, width, [0] * len(blocks))
