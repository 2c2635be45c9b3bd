"""Points: shells around a ball, and densities in the plane to learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

RADII = (0.5, 1.0, 1.5)
"""Where the ball ends, and where the shell around it begins and ends."""


def annuli(count: int, dim: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return points `[count, dim]` of a ball, label 0, and of a shell around it, label 1.

    Both are uniform over their volume, with a gap between them. In one dimension the shell is an
    interval on either side.

    Source: Dupont, Doucet, Teh, Augmented neural ODEs, NeurIPS 2019, section 2.
    """
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    ball, inner, outer = RADII
    low = torch.where(labels == 0, 0.0, inner**dim)
    high = torch.where(labels == 0, ball**dim, outer**dim)
    radius = (low + (high - low) * torch.rand(count, generator=chance)) ** (1.0 / dim)
    direction = torch.randn(count, dim, generator=chance)
    return radius[:, None] * direction / direction.norm(dim=1, keepdim=True), labels


def density(name: str, count: int, *, seed: int) -> Tensor:
    """Return points `[count, 2]` of one of `DENSITIES`."""
    return DENSITIES[name](count, torch.Generator().manual_seed(seed))


def _moons(count: int, chance: torch.Generator) -> Tensor:
    """Two half circles of radius 1.5 that reach into each other, with noise of 0.15."""
    angle = math.pi * torch.rand(count, generator=chance)
    upper = torch.arange(count) % 2 == 0
    x = torch.where(upper, angle.cos(), 1.0 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    points = 1.5 * torch.stack([x, y], 1)
    return points + 0.15 * torch.randn(count, 2, generator=chance)


def _pinwheel(count: int, chance: torch.Generator) -> Tensor:
    """Five arms, each a Gaussian that is bent around the middle."""
    arm = torch.arange(count) % 5
    normal = torch.randn(count, 2, generator=chance) * torch.tensor([0.3, 0.1])
    along, across = 1.0 + normal[:, 0], normal[:, 1]
    angle = 2.0 * math.pi * arm / 5 + 0.25 * along.exp()
    turned = (
        along * angle.cos() - across * angle.sin(),
        along * angle.sin() + across * angle.cos(),
    )
    return 1.5 * torch.stack(turned, 1)


def _checkerboard(count: int, chance: torch.Generator) -> Tensor:
    """Every second of the 16 unit squares of [-2, 2] x [-2, 2]: uniform, entropy log 8."""
    square = torch.randint(8, (count,), generator=chance)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = torch.stack([column, row], 1) - 2.0
    return corner + torch.rand(count, 2, generator=chance)


def _gaussians(count: int, chance: torch.Generator) -> Tensor:
    """Eight Gaussians of standard deviation 0.15 on a circle of radius 2."""
    angle = 2.0 * math.pi * torch.randint(8, (count,), generator=chance) / 8
    centre = 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.15 * torch.randn(count, 2, generator=chance)


DENSITIES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "moons": _moons,
    "pinwheel": _pinwheel,
    "checkerboard": _checkerboard,
    "gaussians": _gaussians,
}
"""The densities by name."""
