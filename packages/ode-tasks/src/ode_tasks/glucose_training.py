"""How a forecaster is trained, calibrated and asked: the recipe of the glucose task."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ode_tasks import measure, work_precision
from ode_tasks.data.windows import HORIZONS
from ode_tasks.glucose_scores import HALF_WIDTH, LEVEL, scores, table
from ode_tasks.settings import build, direct_twin
from ode_tasks.train import fit, loader, make_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.windows import Parts, Scale, Windows
    from ode_tasks.glucose import GlucoseSettings
    from ode_tasks.train import Batch

# Enough windows to see the solver's error, few enough to solve them to 1e-10.
_ERROR_WINDOWS = 16


class Forecasts(NamedTuple):
    """`mean` and `std` are `[W, H]` in mg/dL, `loss` the mean negative log likelihood."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    loss: float


class Learned(NamedTuple):
    """The forecasts of the test part, and what training and solving cost.

    `calibration` `[H]` are the factors by which the spreads were multiplied.
    """

    test: Forecasts
    calibration: NDArray[np.float64]
    columns: dict[str, Any]


def learn(
    config: RunConfig, settings: GlucoseSettings, parts: Parts, progress: Progress
) -> Learned:
    """Train, choose the epoch and calibrate by the validation part, forecast the test part once."""
    fabric = make_fabric(config.device, settings.precision)
    size = model_size(settings, kinds(parts.train))
    model = build(config, settings, **size)
    used = tensors(spread(parts.train, settings.train_windows), parts.scale)
    trained = fit(
        model,
        loader(used, settings.batch, seed=config.seed),
        lambda net, batch: loss(net, stretched(batch, settings.stretch), settings.beta),
        optimiser=torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        ),
        schedule=settings.schedule(
            patience=settings.patience, watch="validation_loss", higher_is_better=False
        ),
        evaluate=Validate(parts, fabric, settings.batch),
        fabric=fabric,
        progress=progress,
        config=config,
    )
    calibration = calibrated(
        forecast(model, parts.validation, parts.scale, fabric=fabric, batch=settings.batch),
        parts.validation.targets,
    )
    test = forecast(model, parts.test, parts.scale, fabric=fabric, batch=settings.batch)
    batch = fabric.to_device(tuple(part[: settings.batch] for part in used))
    twin = direct_twin(config, settings, model, **size)
    few = tuple(part[:_ERROR_WINDOWS] for part in batch)
    columns = {
        **trained.columns(),
        "solver_error": measure.solver_error(model, *inputs(few)),
        "work_precision": work_precision.of_model(
            model, work_precision.how(config, settings), *inputs(few)
        ),
        **measure.memory_columns(model, twin, lambda net: loss(net, batch), batch),
        "history": trained.history,
    }
    spreads = (test.std * calibration).astype(np.float32)
    return Learned(test._replace(std=spreads), calibration, columns)


def model_size(settings: GlucoseSettings, controls: int) -> dict[str, Any]:
    """Return the options that the models are made with, those that say nothing new left out."""
    size = {"horizons": [minutes / 60 for minutes in HORIZONS], "width": settings.width}
    if controls:
        size["controls"] = controls
    if not settings.linear:
        size["linear"] = False
    return size


def kinds(windows: Windows) -> int:
    """Return the number of kinds of intake that the windows have."""
    return int(windows.intakes.shape[2])


def spread(windows: Windows, count: int) -> Windows:
    """Return at most so many windows, evenly spread over all."""
    if len(windows.origin) <= count:
        return windows
    return windows.take(np.linspace(0, len(windows.origin) - 1, count).astype(np.int64))


def tensors(windows: Windows, scale: Scale) -> Batch:
    """Return times (hours), normal values, mask and normal targets (NaN where missing).

    Where there are intakes, their times (hours) and their amounts in mean doses follow.
    """
    parts = [
        windows.times,
        np.where(windows.mask, scale.normal(windows.values, windows.subject), np.float32(0)),
        windows.mask,
        scale.normal(windows.targets, windows.subject),
    ]
    if kinds(windows):
        parts += [windows.intake_times, (windows.intakes / scale.doses).astype(np.float32)]
    return tuple(torch.from_numpy(part) for part in parts)


def inputs(batch: Batch) -> Batch:
    """Return what a model is called with: all but the targets."""
    return (*batch[:3], *batch[4:])


def stretched(batch: Batch, size: float) -> Batch:
    """Return the windows with their distance from the last reading multiplied, targets too.

    Each window has a factor of its own, whose logarithm is normal with this standard deviation:
    people differ in how far their glucose goes more than in how it goes there.
    """
    times, values, mask, targets, *intakes = batch
    last = values[:, -1:]
    factor = torch.exp(size * torch.randn_like(last))
    values = torch.where(mask, last + factor * (values - last), 0.0)
    return (times, values, mask, last + factor * (targets - last), *intakes)


def loss(model: nn.Module, batch: Batch, beta: float = 0.0) -> Tensor:
    """Return the Gaussian negative log likelihood of the known targets plus the model's penalty.

    Each term is weighted by the forecast's own variance to the power `beta`: at 0 a window that is
    hard to forecast says little about the mean, at 1 as much as in a mean square.

    Source of the weights: Seitzer et al., ICLR 2022.
    """
    made = model(*inputs(batch))
    value: Tensor = likelihood(made.mean, made.std, batch[3], beta) + made.penalty
    return value


def likelihood(mean: Tensor, std: Tensor, targets: Tensor, beta: float = 0.0) -> Tensor:
    """Return the mean negative log likelihood of the targets that are not NaN."""
    known = ~targets.isnan()
    each = F.gaussian_nll_loss(
        mean, torch.where(known, targets, 0), std.square(), full=True, reduction="none"
    )
    if beta:
        each = each * std.detach() ** (2 * beta)
    return (each * known).sum() / known.sum().clamp_min(1)


@torch.no_grad()
def forecast(
    model: nn.Module, windows: Windows, scale: Scale, *, fabric: Fabric, batch: int
) -> Forecasts:
    """Return a model's forecasts of windows, as it makes them when it is not trained."""
    model.eval()
    asked = tensors(windows, scale)
    means, stds = [], []
    for part in loader(asked, 4 * batch):
        made = model(*fabric.to_device(inputs(part)))
        means.append(made.mean.float().cpu())
        stds.append(made.std.float().cpu())
    mean, std = torch.cat(means), torch.cat(stds)
    value = float(likelihood(mean, std, asked[3]))
    mg_dl = scale.mg_dl(mean.numpy(), windows.subject)
    return Forecasts(mg_dl, std.numpy() * np.float32(scale.std), value)


def calibrated(made: Forecasts, targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each horizon the factor after which 90 % of the targets are in the interval.

    Split conformal prediction: the quantile of |target - mean| / std at the level that counts one
    reading more than there are. 1 where there is no target.

    Source: Papadopoulos et al. 2002; Lei et al. 2018, section 2 and 5.2 for the scaled residual.
    """
    factors = np.ones(targets.shape[1])
    for column, off in enumerate((np.abs(targets - made.mean) / made.std).T):
        known = np.sort(off[~np.isnan(off)])
        if len(known):
            rank = min(int(np.ceil((len(known) + 1) * LEVEL)), len(known))
            factors[column] = known[rank - 1] / HALF_WIDTH
    return factors


@dataclasses.dataclass(frozen=True)
class Validate:
    """The loss and the errors over the validation part, by which training is stopped."""

    parts: Parts
    fabric: Fabric
    batch: int

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the columns of an epoch's row."""
        windows = self.parts.validation
        found = forecast(model, windows, self.parts.scale, fabric=self.fabric, batch=self.batch)
        people = [str(number) for number in range(len(self.parts.scale.means))]
        pooled = scores(table(windows, people, found.mean))
        return {
            "validation_score": pooled["rmse_30"],
            "validation_rmse_60": pooled["rmse_60"],
            "validation_loss": found.loss,
        }
