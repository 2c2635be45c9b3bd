"""Recovering dynamics from samples, shared by the tasks whose true system is known."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from ode_core.errors import ArgumentError
from ode_core.registry import solvers
from ode_tasks import measure, work_precision
from ode_tasks.data.trajectories import noisy, sample, sample_irregular, windows
from ode_tasks.gradients.probe import Probe
from ode_tasks.portrait import draw
from ode_tasks.settings import Settings, build, direct_twin, solving
from ode_tasks.shooting import Shooting
from ode_tasks.train import fit, loader, make_fabric

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.trajectories import System, Trajectories
    from ode_tasks.train import Batch

PORTRAIT = "phase_portrait.png"

# The samples are the same in every run; only weights and the order of batches change with its seed.
_TRAIN_SEED, _NOISE_SEED, _TEST_SEED = 1, 2, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsSettings(Settings):
    """The settings of a dynamics task.

    `trajectories` are trained on, `test_trajectories` from other starts are scored; each has
    `samples` intervals in the training window, and training solves over `window` of them at once.
    `noise` is the standard deviation of what is added to the samples that are trained on; with
    `irregular` each of their trajectories has random times of its own. `slopes`, `shoot` and
    `iterations` are `Shooting`'s, after training.
    """

    trajectories: int
    test_trajectories: int
    samples: int
    window: int
    noise: float = 0.0
    irregular: bool = False
    slopes: int = 0
    shoot: tuple[int, ...] = ()
    iterations: int = 20

    def __post_init__(self) -> None:
        """Raise ArgumentError for settings that leave nothing to train or to test on."""
        super().__post_init__()
        if not 1 <= self.window <= self.samples:
            raise ArgumentError(
                f"window is {self.window} of {self.samples} samples; it is at least 1 and at most "
                "the number of samples"
            )
        if min(self.trajectories, self.test_trajectories) < 1 or self.noise < 0:
            raise ArgumentError(
                "trajectories and test_trajectories are at least 1 and noise is not negative; they "
                f"are {self.trajectories}, {self.test_trajectories} and {self.noise}"
            )
        if not all(1 <= length <= self.samples for length in self.shoot):
            raise ArgumentError(
                f"shoot is {self.shoot}; a stretch has at least 1 interval and at most all "
                f"{self.samples}"
            )
        if self.slopes < 0 or self.iterations < 1:
            raise ArgumentError(
                "slopes is at least 0 and iterations at least 1; they are "
                f"{self.slopes} and {self.iterations}"
            )


def recover(
    config: RunConfig, settings: DynamicsSettings, system: System, *, progress: Progress
) -> dict[str, Any]:
    """Train the config's model on samples of the system and return the metrics of the run.

    With `config.out` a picture of the true and the learned system is left there.
    """
    _refuse_data(config)
    fabric = make_fabric(config.device, settings.precision)
    samples, test = _samples(settings, system)
    test = dataclasses.replace(test, states=fabric.to_device(test.states))
    inside = test.part(0, settings.samples + 1)
    stretches = windows(samples, settings.window)
    size = {"dim": test.states.shape[-1], "width": settings.width}
    model = build(config, settings, **size)
    shooting = _shooting(config, settings)
    smooth = shooting.measure(model, samples)
    loss = _WindowLoss(samples, settings.window)
    trained = fit(
        model,
        loader(stretches, settings.batch, seed=config.seed),
        loss,
        optimiser=torch.optim.Adam(model.parameters(), lr=settings.learning_rate),
        schedule=settings.schedule(),
        evaluate=lambda net: _score(net, inside),
        fabric=fabric,
        progress=progress,
        config=config,
    )
    fitted = shooting.fit(model, samples, smooth, progress)
    batch = fabric.to_device(tuple(part[: settings.batch] for part in stretches))
    twin = direct_twin(config, settings, model, **size)
    memory = measure.memory_columns(model, twin, lambda net: loss(net, batch), inputs=batch)
    errors = _errors(system, model, test, samples=settings.samples, out=config.out)
    return {
        **solving(config, settings),
        "loss": errors["trajectory_error"] ** 2,
        "score": errors["trajectory_error"],
        "score_name": "trajectory_error",
        "higher_is_better": False,
        **errors,
        # The true system is the same problem for every solver.
        "work_precision": work_precision.of_system(
            system.field,
            inside.states[0],
            [float(inside.times[0]), float(inside.times[-1])],
            work_precision.how(config, settings),
        ),
        **trained.columns(),
        "shooting_loss": fitted,
        **memory,
        "history": trained.history,
    }


def _shooting(config: RunConfig, settings: DynamicsSettings) -> Shooting:
    """Return the fit, by the run's solver if that is explicit with fixed steps, else by rk4."""
    record = solvers.get(config.solver)
    own = record is not None and not (record.adaptive or record.implicit)
    solver, step = (config.solver, config.dt or settings.dt) if own else ("rk4", settings.dt)
    return Shooting(settings.slopes, settings.shoot, settings.iterations, solver, step)


def _refuse_data(config: RunConfig) -> None:
    if config.data is not None:
        raise ArgumentError(
            f"the task {config.task} makes its own samples and reads none from {config.data}; "
            "leave out --data"
        )


def probe(config: RunConfig, settings: DynamicsSettings, system: System) -> Probe:
    """Return one batch of windows, and the loss of a model on it."""
    _refuse_data(config)
    samples, _ = _samples(settings, system)
    loss = _WindowLoss(samples, settings.window)
    stretches = windows(samples, settings.window)
    batch = tuple(part[: settings.batch].to(config.device) for part in stretches)
    size = {"dim": samples.states.shape[-1], "width": settings.width}
    return Probe(settings, size, lambda net: loss(net, batch), batch)


def _samples(settings: DynamicsSettings, system: System) -> tuple[Trajectories, Trajectories]:
    """Return what is trained on, and what is tested on, which is twice as long."""
    count, tests = settings.trajectories, settings.test_trajectories
    if settings.irregular:
        clean = sample_irregular(system, count, settings.samples, seed=_TRAIN_SEED)
    else:
        clean = sample(system, count, settings.samples, spans=1, seed=_TRAIN_SEED)
    test = sample(system, tests, settings.samples, spans=2, seed=_TEST_SEED)
    return noisy(clean, settings.noise, _NOISE_SEED), test


class _WindowLoss:
    """Mean square of the difference over a window, in units of the data's mean square."""

    def __init__(self, samples: Trajectories, window: int) -> None:
        self.times = samples.times[: window + 1]
        self.scale = float(samples.states.square().mean())

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        starts, targets, *own = batch  # the times, where each trajectory has its own
        difference: Tensor = model(starts, *own or [self.times])[1:] - targets.transpose(0, 1)
        return difference.square().mean() / self.scale


def _score(model: nn.Module, test: Trajectories) -> dict[str, float]:
    error = measure.relative_rms(model(test.states[0], test.times), test.states)
    return {"test_score": error, "test_loss": error**2}


@torch.no_grad()
def _errors(
    system: System, model: Any, test: Trajectories, *, samples: int, out: Path | None
) -> dict[str, float]:
    """Return the relative errors of the states, of the field along the true ones, of the solver.

    The field's is the root of the mean square over the points together, and beside it the median
    of what it is point by point.
    """
    exact = copy.deepcopy(model).double()
    learned = model(test.states[0], test.times)
    inside = slice(0, samples + 1)
    solved = measure.reference(exact.field, test.states[0], test.times[inside])
    errors = {"solver_error": measure.relative_rms(learned[inside], solved)}
    for suffix, part in (("", inside), ("_beyond", slice(samples + 1, None))):
        states = test.states[part].double()
        points, time = states.flatten(0, 1), states.new_zeros(())
        field, true = exact.field(time, points), system.field(time, points)
        off = (field - true).norm(dim=1) / true.norm(dim=1)
        errors[f"trajectory_error{suffix}"] = measure.relative_rms(learned[part], states)
        errors[f"field_error{suffix}"] = measure.relative_rms(field, true)
        errors[f"field_error_median{suffix}"] = float(off.median())
    if out is not None:
        draw(out / PORTRAIT, system, exact.cpu().field, test=test, learned=learned.float())
    return errors
