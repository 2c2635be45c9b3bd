"""One way to run the small tasks: a data set of tensors, a loss, a score."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from ode_core.errors import ArgumentError, SolveError
from ode_tasks import measure
from ode_tasks.finer import Solve, solved_by
from ode_tasks.gradients.probe import Probe
from ode_tasks.penalty import penalties
from ode_tasks.settings import Settings, build, direct_twin, solving
from ode_tasks.train import fit, loader, make_fabric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.train import Batch

_CHECKED = 16
_TIGHT = Solve("dopri8", tolerance=1e-9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings(Settings):
    """The settings of a task that makes its samples: how many to train and to test on."""

    train_samples: int
    test_samples: int

    def __post_init__(self) -> None:
        """Raise ArgumentError where nothing is left to train or to test on."""
        super().__post_init__()
        if min(self.train_samples, self.test_samples) < 1:
            raise ArgumentError(
                "train_samples and test_samples are at least 1; they are "
                f"{self.train_samples} and {self.test_samples}"
            )


class Experiment(NamedTuple):
    """Tensors to train and to test on, the options of a model, its loss and its scores.

    `loss(model, batch)` is a mean over the batch; `scores(model)` gives `test_score` and
    `test_loss` in evaluation mode. `inputs` are how many tensors of a batch the model is called
    with, the first ones.
    """

    train: Batch
    test: Batch
    size: Mapping[str, Any]
    loss: Callable[[nn.Module, Batch], Tensor]
    inputs: int
    score_name: str
    higher_is_better: bool


def own_samples(config: RunConfig) -> None:
    """Raise ArgumentError where a task that makes its samples is given some."""
    if config.data is not None:
        raise ArgumentError(
            f"the task {config.task} makes its own samples and reads none from {config.data}; "
            "leave out --data"
        )


def learn(
    config: RunConfig,
    settings: Settings,
    experiment: Experiment,
    *,
    progress: Progress,
    finish: Callable[[nn.Module], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train the config's model on the experiment and return the metrics of the run.

    `finish(model)` is called with the trained model in evaluation mode and adds metrics.
    """
    fabric = make_fabric(config.device, settings.precision)
    size = dict(experiment.size)
    model = build(config, settings, **size)
    test = loader(experiment.test, 4 * settings.batch)

    def scores(net: nn.Module) -> dict[str, float]:
        return _scores(net, [fabric.to_device(batch) for batch in test], experiment)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return experiment.loss(net, batch) + penalties(net)

    trained = fit(
        model,
        loader(experiment.train, settings.batch, seed=config.seed),
        loss,
        optimiser=torch.optim.Adam(model.parameters(), lr=settings.learning_rate),
        schedule=settings.schedule(),
        evaluate=scores,
        fabric=fabric,
        progress=progress,
        config=config,
    )
    batch = fabric.to_device(tuple(part[: settings.batch] for part in experiment.train))
    twin = direct_twin(config, settings, model, **size)
    memory = measure.memory_columns(model, twin, lambda net: loss(net, batch), inputs=batch)
    model.eval()
    some = fabric.to_device(tuple(part[:_CHECKED] for part in experiment.test))
    return {
        **solving(config, settings),
        "loss": trained.row["test_loss"],
        "score": trained.row["test_score"],
        "score_name": experiment.score_name,
        "higher_is_better": experiment.higher_is_better,
        **trained.columns(),
        "solver_error": solver_error(model, some[: experiment.inputs]),
        **memory,
        **(finish(model) if finish is not None else {}),
        "history": trained.history,
    }


def probe(config: RunConfig, settings: Settings, experiment: Experiment) -> Probe:
    """Return one training batch of the experiment, and the loss of a model on it."""
    batch = tuple(part[: settings.batch].to(config.device) for part in experiment.train)
    return Probe(
        settings, experiment.size, lambda net: experiment.loss(net, batch) + penalties(net), batch
    )


@torch.no_grad()
def solver_error(model: nn.Module, inputs: Batch) -> float | None:
    """Return by how much a model's answers are off what they are with almost exact solves.

    In evaluation mode, as a relative root mean square; None for a model that solves nothing, NaN
    where the exact solve cannot be finished.
    """
    own = model(*inputs)
    if not measure.blocks(model):
        return None
    exact = copy.deepcopy(model).double()
    try:
        with solved_by(exact, _TIGHT):
            return measure.relative_rms(own, exact(*(part.double() for part in inputs)))
    except SolveError:
        return float("nan")


def labelled(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy of a batch whose last tensor are the labels, `[B]`."""
    return F.cross_entropy(model(*batch[:-1]), batch[-1])


def _scores(model: nn.Module, test: list[Batch], experiment: Experiment) -> dict[str, float]:
    """Return the test loss and, of labelled samples, the part that is told right."""
    count = sum(len(batch[0]) for batch in test)
    total = sum(float(experiment.loss(model, batch)) * len(batch[0]) for batch in test)
    if not experiment.higher_is_better:
        return {"test_score": total / count, "test_loss": total / count}
    right = sum(int((model(*batch[:-1]).argmax(1) == batch[-1]).sum()) for batch in test)
    return {"test_score": right / count, "test_loss": total / count}
