"""The picture of a density run: points, points that the flow draws, and the learned density."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_SHOWN = 2_000
_SEED = 4


def draw(
    path: Path,
    name: str,
    points: Tensor,
    model: Any,
    box: tuple[float, float, float, float],
    heights: Tensor,
) -> None:
    """Write a PNG of three squares: `points` `[N, 2]`, as many drawn from the model, `heights`.

    `box` is left, right, low and high of the heights `[n, n]`, rows from below. A model that cannot
    `sample(count, generator=...)` has two squares.
    """
    count = min(_SHOWN, len(points))
    shown = {"held out": points[:count]}
    if hasattr(model, "sample"):
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(_SEED)
        shown["drawn from the flow"] = model.sample(count, generator=generator).cpu()
    figure = Figure(figsize=(4 * (len(shown) + 1), 4.6), layout="constrained")
    axes = figure.subplots(1, len(shown) + 1)
    for axis, (title, some) in zip(axes, shown.items(), strict=False):
        axis.scatter(some[:, 0], some[:, 1], s=2, color="#4d4d4d", linewidths=0)
        axis.set_title(f"{name}: {title}")
    axes[-1].imshow(heights, extent=box, origin="lower", cmap="viridis", aspect="auto")
    axes[-1].set_title("learned density")
    for axis in axes:
        axis.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[], aspect="equal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
