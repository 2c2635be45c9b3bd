"""From noisy samples to a field: slopes of local polynomials first, then multiple shooting.

The slopes are fitted by Adam, which stops before it follows their noise, the stretches by L-BFGS;
both use all samples at once. Source: Bock, Recent advances in parameter
identification for ordinary differential equations (1983), for shooting whose starts are unknowns;
Varah, A spline least squares method (1982), for fitting the slopes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ode_tasks.train import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from ode_core.protocols import Progress
    from ode_tasks.data.trajectories import Trajectories

_NEIGHBOURS, _DEGREE = 4, 3
_RATE, _HISTORY = 5e-3, 100
_PLACES, _PLACES_SEED, _STEP = 500, 5, 0.3


class Smooth(NamedTuple):
    """States and slopes at the samples, `[T, N, dim]` each, without most of the noise."""

    states: Tensor
    slopes: Tensor

    def to(self, device: torch.device) -> Smooth:
        """Return the same on a device."""
        return Smooth(self.states.to(device), self.slopes.to(device))


@dataclass(frozen=True)
class Shooting:
    """How a model is fitted by least squares.

    `slopes` iterations fit the field to local slopes; then the trajectories are cut into stretches
    of each of `lengths` intervals in turn, whose starts are unknowns like the weights, for
    `iterations` each. `roughness` weighs the mean square of the field's third differences: where
    there are few samples, the smoother of two fields is the likelier one. It leaves quadratic
    fields as they are.
    """

    slopes: int
    lengths: tuple[int, ...]
    iterations: int
    roughness: float = 0.0

    def start(self, model: Any, samples: Trajectories) -> Smooth:
        """Smooth the samples and, if asked, fit the model's field to their slopes."""
        smooth = smoothed(samples)
        if not self.slopes:
            return smooth
        states, slopes = smooth.states.flatten(0, 1), smooth.slopes.flatten(0, 1)
        unit = slopes.std(0).clamp_min(torch.finfo(slopes.dtype).tiny)
        if hasattr(model.field, "measure_in"):
            model.field.measure_in(states.std(0), unit)
        time = states.new_zeros(())

        def loss() -> Tensor:
            difference: Tensor = (model.field(time, states) - slopes) / unit
            return difference.square().mean()

        _descend(loss, list(model.parameters()), self.slopes)
        return smooth

    def finish(
        self, model: nn.Module, samples: Trajectories, smooth: Smooth, progress: Progress
    ) -> float | None:
        """Fit the model to stretch after stretch; return the mean square that is left, or None."""
        left = None
        rough = _Roughness(smooth, self.roughness)
        progress.start(len(self.lengths), "shooting")
        for length in self.lengths:
            left, smooth = _shoot(model, samples, smooth, length, rough, self.iterations)
            progress.advance(f"shooting over {length} intervals")
        return left


def smoothed(samples: Trajectories) -> Smooth:
    """Return the values and slopes of a cubic through each sample's neighbours, by least squares.

    Source: Savitzky, Golay (1964), for any distances of the samples.
    """
    count = len(samples.states)
    taken = min(2 * _NEIGHBOURS + 1, count)
    first = (torch.arange(count) - _NEIGHBOURS).clamp(0, count - taken)
    near = first[:, None] + torch.arange(taken)  # [T, taken]
    times = torch.atleast_2d(samples.times.cpu())
    apart = times[:, near] - times[:, :, None]  # [1 or N, T, taken]
    unit = apart.abs().amax(-1, keepdim=True)
    powers = torch.arange(min(_DEGREE, taken - 1) + 1)
    solved = torch.linalg.pinv((apart / unit).unsqueeze(-1) ** powers)
    states = samples.states.cpu().double().transpose(0, 1)[:, near]  # [N, T, taken, dim]
    cubic = solved @ states
    values, slopes = cubic[..., 0, :], cubic[..., 1, :] / unit
    like = samples.states
    return Smooth(*(part.transpose(0, 1).to(like).contiguous() for part in (values, slopes)))


class _Roughness:
    """The weighed mean square of a field's third differences, in the units of the slopes.

    They are taken over a box around the states, at the same places in every call, in random
    directions, over steps of 0.3 standard deviations.
    """

    def __init__(self, smooth: Smooth, weight: float) -> None:
        states = smooth.states.flatten(0, 1)
        chance = torch.Generator().manual_seed(_PLACES_SEED)
        dim = states.shape[-1]
        low, high = states.amin(0), states.amax(0)
        centres = low + (high - low) * torch.rand(_PLACES, dim, generator=chance).to(states)
        directions = torch.randn(_PLACES, dim, generator=chance).to(states)
        steps = _STEP * states.std(0) * torch.nn.functional.normalize(directions)
        self.weight = weight
        self.places = torch.cat([centres + by * steps for by in (-1.5, -0.5, 0.5, 1.5)])
        self.unit = smooth.slopes.flatten(0, 1).std(0).clamp_min(torch.finfo(states.dtype).tiny)

    def __call__(self, model: Any) -> Tensor | float:
        if not self.weight:
            return 0.0
        field = model.field(self.places.new_zeros(()), self.places) / self.unit
        a, b, c, d = field.chunk(4)
        third: Tensor = d - a - 3 * (c - b)
        return self.weight * third.square().mean()


def _shoot(
    model: nn.Module,
    samples: Trajectories,
    smooth: Smooth,
    length: int,
    rough: _Roughness,
    iterations: int,
) -> tuple[float, Smooth]:
    """Fit weights and the starts of stretches; return the mean square and the states fitted.

    The mean square is in units of the data's.
    """
    last = len(samples.states) - 1
    firsts = [*range(0, last - length, length), last - length]
    places = torch.tensor(firsts)[:, None] + torch.arange(length + 1)  # [S, length + 1]
    targets = _stretched(samples.states, places)
    times = samples.times[: length + 1]
    if samples.times.dim() == 2:
        times = samples.times[:, places].transpose(0, 1).flatten(0, 1)
        times = times - times[:, :1]
    starts = torch.nn.Parameter(_stretched(smooth.states, places)[0].clone())
    scale = samples.states.square().mean()

    def loss() -> Tensor:
        difference: Tensor = model(starts, times) - targets
        return difference.square().mean() / scale

    _minimise(lambda: loss() + rough(model), [*model.parameters(), starts], iterations)
    with torch.no_grad():
        left = float(loss())
    if not math.isfinite(left):
        raise TrainingError(
            "shooting ended at no number; shorten the first stretch (--set shoot=...) or give a "
            "smaller step"
        )
    states = smooth.states.clone()
    with torch.no_grad():
        fitted = model(starts, times).unflatten(1, (len(firsts), -1))
    for number, place in enumerate(places):
        states[place] = fitted[:, number]
    return left, smooth._replace(states=states)


def _stretched(states: Tensor, places: Tensor) -> Tensor:
    """Return states `[T, N, dim]` as `[length + 1, S N, dim]`."""
    return states[places].transpose(0, 1).flatten(1, 2)


def _descend(loss: Callable[[], Tensor], unknowns: Sequence[Tensor], iterations: int) -> None:
    """Minimise by Adam, its rate rising over a tenth of the iterations and falling to 0."""
    optimiser = torch.optim.Adam(unknowns, lr=_RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _RATE, total_steps=max(2, iterations), pct_start=0.1
    )
    for _ in range(iterations):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        rates.step()


def _minimise(loss: Callable[[], Tensor], unknowns: Sequence[Tensor], iterations: int) -> None:
    """Minimise by L-BFGS."""
    optimiser = torch.optim.LBFGS(
        unknowns,
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=_HISTORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimiser.step(closure)
