"""The picture of a dynamics run: the true and the learned system in the plane and over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes
    from torch import Tensor

    from ode_tasks.data.trajectories import System, Trajectories

_TRUE, _LEARNED = "#4d4d4d", "#d95f02"
_ARROWS = 17
_SHOWN = 3


def draw(
    path: Path,
    system: System,
    field: Callable[[Tensor, Tensor], Tensor],
    *,
    test: Trajectories,
    learned: Tensor,
) -> None:
    """Write a PNG: on the left both fields and some trajectories, on the right one over time.

    `field` is the learned one, in float64 on the CPU; `learned` is
    `[T, N, 2]` like the states of `test`.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    plane, over_time = figure.subplots(1, 2)
    true, learned = test.states.cpu(), learned.cpu()
    low, high = true.flatten(0, 1).amin(0), true.flatten(0, 1).amax(0)
    margin = 0.08 * (high - low)
    _fields(plane, system, field, low=low - margin, high=high + margin)
    plane.plot(true[:, :_SHOWN, 0], true[:, :_SHOWN, 1], color=_TRUE, lw=1.2)
    plane.plot(learned[:, :_SHOWN, 0], learned[:, :_SHOWN, 1], color=_LEARNED, lw=1.2, ls="--")
    plane.plot(true[0, :_SHOWN, 0], true[0, :_SHOWN, 1], "o", color=_TRUE, ms=4)
    plane.set(xlabel="$y_1$", ylabel="$y_2$", title=f"{system.name}: {system.formula}")
    for part in (0, 1):
        over_time.plot(test.times, true[:, 0, part], color=_TRUE, lw=1.2)
        over_time.plot(test.times, learned[:, 0, part], color=_LEARNED, lw=1.2, ls="--")
    ends = float((low - margin).min()), float((high + margin).max())
    over_time.set_ylim(*ends)  # a learned solution that runs away leaves the picture, not its scale
    over_time.axvspan(0, system.duration, color="#f0f0f0", zorder=0)
    over_time.set(xlabel="t", ylabel="$y_1, y_2$", title="shaded: the training window")
    over_time.plot([], [], color=_TRUE, label="true")
    over_time.plot([], [], color=_LEARNED, ls="--", label="learned")
    over_time.legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _fields(
    axes: Axes,
    system: System,
    field: Callable[[Tensor, Tensor], Tensor],
    *,
    low: Tensor,
    high: Tensor,
) -> None:
    """Draw the directions of both fields between two corners, `[2]` each, in a square of its own.

    The directions are those seen in the square, whatever the units of its sides.
    """
    low, high = low.double(), high.double()
    ticks = torch.linspace(0.0, 1.0, _ARROWS, dtype=torch.float64)
    points = low + (high - low) * torch.cartesian_prod(ticks, ticks)
    time = points.new_zeros(())
    for vectors, colour in ((system.field(time, points), _TRUE), (field(time, points), _LEARNED)):
        arrows = torch.nn.functional.normalize(vectors / (high - low))
        axes.quiver(*points.T, *arrows.T, color=colour, alpha=0.45, width=0.003, scale=32)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), box_aspect=1)
