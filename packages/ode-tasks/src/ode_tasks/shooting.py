"""From noisy samples to a field: slopes of local polynomials first, then multiple shooting.

Source: Bock, Recent advances in parameter identification for ordinary differential equations
(1983), for shooting whose starts are unknowns; Varah, A spline least squares method (1982), for
fitting the slopes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ode_tasks.gauss_newton import Fit, Normal, minimise
from ode_tasks.sensitivity import Flow, WeighedField
from ode_tasks.smoothness import Differences
from ode_tasks.train import TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ode_core.protocols import Progress
    from ode_tasks.data.trajectories import Trajectories

_NEIGHBOURS, _DEGREE = 4, 3
_SLOPE_PRECISION = 20.0
_LEAST_NOISE = 1e-4
_TOGETHER = 100


class Smooth(NamedTuple):
    """States and slopes at the samples, `[T, N, dim]` each, without most of the noise."""

    states: Tensor
    slopes: Tensor


@dataclass(frozen=True)
class Shooting:
    """How a model is fitted by least squares.

    `slopes` steps at most fit the field to local slopes; then the trajectories are cut into
    stretches of each of `lengths` intervals in turn, whose starts are unknowns like the weights,
    for `iterations` steps at most each. They are solved by the explicit `solver` in steps of `dt`.
    """

    slopes: int
    lengths: tuple[int, ...]
    iterations: int
    solver: str
    dt: float

    def measure(self, model: Any, samples: Trajectories) -> Smooth:
        """Smooth the samples and, if asked to fit, give the model's field their units."""
        smooth = smoothed(samples)
        if (self.slopes or self.lengths) and hasattr(model.field, "measure_in"):
            states, slopes = smooth.states.flatten(0, 1), smooth.slopes.flatten(0, 1)
            model.field.measure_in(states.std(0), _unit(slopes))
        return smooth

    def fit(
        self, model: nn.Module, samples: Trajectories, smooth: Smooth, progress: Progress
    ) -> float | None:
        """Fit the model to slopes and stretches; return the mean square left by the last, or None.

        It is in units of that of the samples. Raises TrainingError for stretches whose solution
        from the field of the slopes is no number.
        """
        if not (self.slopes or self.lengths):
            return None
        device = next(model.parameters()).device
        states, slopes = (part.to(device).double() for part in smooth)
        field = WeighedField(model)
        unit = _unit(slopes.flatten(0, 1))
        rough = Differences(field, states.flatten(0, 1), unit)
        fit = Fit.begin(field.weights, states.new_zeros(()), _SLOPE_PRECISION)
        progress.start(1 + len(self.lengths), "fitting slopes")
        problem = _Slopes(field, states.flatten(0, 1), slopes.flatten(0, 1), unit)
        fit = minimise(problem, rough, fit, self.slopes, learn=False)
        observed = samples.states.to(device).double()
        fit.precision = 1.0 / _noise(observed, states) ** 2
        left = None
        for length in self.lengths:
            progress.advance(f"shooting over {length} intervals")
            stretches = _cut(observed, samples.times.to(device), length)
            shot = _Stretches(field, stretches, self.solver, self.dt)
            fit.others = stretches.of(states)[0].clone()
            fit = minimise(shot, rough, fit, self.iterations, learn=True)
            fitted = shot.states(fit.weights, fit.others)
            left = float((fitted - stretches.observed).square().mean() / observed.square().mean())
            if not math.isfinite(left):
                raise TrainingError(
                    "shooting met what is no number; shorten the first stretch "
                    "(--set shoot=...) or give a smaller step"
                )
            states = stretches.joined(states, fitted)
        progress.advance("fitted")
        field.put_into(model, fit.weights)
        return left


def _unit(slopes: Tensor) -> Tensor:
    return slopes.std(0).clamp_min(torch.finfo(slopes.dtype).tiny)


def _noise(observed: Tensor, smooth: Tensor) -> float:
    """Return what smoothing has taken away, as a root of a mean square, and a least noise."""
    taken = (observed - smooth).square().mean().sqrt()
    return max(float(taken), _LEAST_NOISE * float(observed.square().mean().sqrt()))


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


class _Slopes:
    """The field's slopes at states `[M, dim]` against given ones, in a unit `[dim]`."""

    def __init__(self, field: WeighedField, states: Tensor, slopes: Tensor, unit: Tensor) -> None:
        self.field, self.states, self.slopes, self.unit = field, states, slopes, unit
        self.freedom = states.numel()

    def residuals(self, weights: Tensor, others: Tensor) -> Tensor:
        """Return differences, `[M, dim]`."""
        return (self.field(weights, self.states) - self.slopes) / self.unit

    def normal(self, weights: Tensor, others: Tensor) -> Normal:
        """Return the equations for the weights; there is nothing else."""
        slopes, _, by_weight = self.field.jacobians(weights, self.states)
        rows = ((slopes - self.slopes) / self.unit).flatten()
        jacobian = (by_weight / self.unit[:, None]).flatten(0, 1)
        return Normal(jacobian.T @ jacobian, jacobian.T @ rows, lambda _: others.new_zeros(()))


class _Cut(NamedTuple):
    """S stretches of each trajectory: what was `observed`, `[length + 1, S N, dim]`, and when.

    `places` are `[S, length + 1]`; `times` begin at 0, `[length + 1]` or `[S N, length + 1]`.
    """

    observed: Tensor
    places: Tensor
    times: Tensor

    def of(self, states: Tensor) -> Tensor:
        """Return states `[T, N, dim]` as `[length + 1, S N, dim]`."""
        return states[self.places].transpose(0, 1).flatten(1, 2)

    def joined(self, states: Tensor, stretched: Tensor) -> Tensor:
        """Return states `[T, N, dim]` with those of the stretches in their places."""
        states, parts = states.clone(), stretched.unflatten(1, (len(self.places), -1))
        for number, place in enumerate(self.places):
            states[place] = parts[:, number]
        return states


def _cut(observed: Tensor, times: Tensor, length: int) -> _Cut:
    last = len(observed) - 1
    firsts = [*range(0, last - length, length), last - length]
    places = torch.tensor(firsts)[:, None] + torch.arange(length + 1)
    own = times[: length + 1]
    if times.dim() == 2:
        own = times[:, places].transpose(0, 1).flatten(0, 1)
    cut = _Cut(observed, places, own - own[..., :1])
    return cut._replace(observed=cut.of(observed))


class _Stretches:
    """Solutions over stretches against what was observed; their starts are unknown, too.

    They are solved so many at a time that their derivatives fit into memory.
    """

    def __init__(self, field: WeighedField, cut: _Cut, solver: str, dt: float) -> None:
        shared = cut.times.dim() == 1
        count = cut.observed.shape[1]
        self.parts = [
            (Flow(field, cut.times if shared else cut.times[part], solver, dt), part)
            for part in (slice(i, i + _TOGETHER) for i in range(0, count, _TOGETHER))
        ]
        self.observed = cut.observed
        self.freedom = cut.observed.numel() - cut.observed[0].numel()

    def states(self, weights: Tensor, starts: Tensor) -> Tensor:
        """Return the solutions, like what was observed."""
        return torch.cat([flow(weights, starts[part]) for flow, part in self.parts], dim=1)

    def residuals(self, weights: Tensor, starts: Tensor) -> Tensor:
        """Return differences, like what was observed."""
        return self.states(weights, starts) - self.observed

    def normal(self, weights: Tensor, starts: Tensor) -> Normal:
        """Return the equations for the weights, each stretch's start eliminated."""
        count, dim = len(weights), starts.shape[1]
        matrix, vector = weights.new_zeros(count, count), weights.new_zeros(count)
        kept = []
        for flow, part in self.parts:
            found = flow.derivatives(weights, starts[part]).transpose(0, 1)
            rows = (found[..., 0] - self.observed[:, part].transpose(0, 1)).flatten(1)
            by_start = found[..., 1 : 1 + dim].flatten(1, 2)
            by_weight = found[..., 1 + dim :].flatten(1, 2)
            basis, factor = torch.linalg.qr(by_start)
            seen, own = basis.mT @ by_weight, basis.mT @ rows[..., None]
            by_weight = torch.baddbmm(by_weight, basis, seen, alpha=-1).flatten(0, 1)
            matrix += by_weight.T @ by_weight
            vector += by_weight.T @ (rows[..., None] - basis @ own).flatten()
            kept.append((factor, seen, own[..., 0]))

        def others(step: Tensor) -> Tensor:
            parts = [
                torch.linalg.solve_triangular(f, -(own + seen @ step)[..., None], upper=True)
                for f, seen, own in kept
            ]
            return torch.cat(parts)[..., 0]

        return Normal(matrix, vector, others)
