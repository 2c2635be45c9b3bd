"""The training loop of every task, and the device, precision and seeds it runs with."""

from __future__ import annotations

import copy
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from ode_core.errors import ArgumentError, OdeError
from ode_tasks import measure
from ode_tasks.torchvision_import import torchmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.optim import Optimizer

    from ode_core.protocols import Progress

    Batch = tuple[Tensor, ...]


class TrainingError(OdeError):
    """Training that cannot go on because its loss is no longer a number."""


@dataclass(frozen=True)
class Schedule:
    """How long to train and how the steps change.

    `cosine` lets the learning rate fall along half a cosine to 0 over all batches; `clip` is the
    largest norm of a gradient. With `patience`, training stops after so many epochs without a
    better value of the column `watch` of the history, and the best weights are put back.
    """

    epochs: int
    cosine: bool = False
    clip: float | None = None
    patience: int | None = None
    watch: str = "test_score"
    higher_is_better: bool = True


class Trained(NamedTuple):
    """What training left: the loss and evaluations of the last epoch, and a row for each epoch."""

    loss: float
    f_forward: float | None
    f_backward: float | None
    epoch_seconds: float
    history: list[dict[str, Any]]

    def columns(self) -> dict[str, Any]:
        """Return what every task reports of its training, without the history."""
        return {
            "train_loss": self.loss,
            "f_forward": self.f_forward,
            "f_backward": self.f_backward,
            "epoch_seconds": self.epoch_seconds,
        }


def fit(
    model: nn.Module,
    batches: DataLoader[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    *,
    optimiser: Optimizer,
    schedule: Schedule,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    fabric: Fabric,
    progress: Progress,
) -> Trained:
    """Train the model in place and return what it cost.

    `loss(model, batch)` gives the scalar to minimise; `evaluate(model)` runs after each epoch, in
    evaluation mode and without gradients, and its columns join the history. Raises TrainingError
    when the loss is not finite.
    """
    wrapped, optimiser = fabric.setup(model, optimiser)
    steps = schedule.epochs * len(batches)
    factor = _half_cosine(steps) if schedule.cosine else _constant
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    best = _Best(schedule)
    history: list[dict[str, Any]] = []
    progress.start(steps, f"epoch 1 of {schedule.epochs}")
    for epoch in range(1, schedule.epochs + 1):
        meters = _Meters(fabric.device)
        wrapped.train()
        with measure.timed(fabric.device) as timer:
            for number, batch in enumerate(batches, start=1):
                value = loss(wrapped, fabric.to_device(batch))
                _require_finite(value, epoch, number)
                optimiser.zero_grad()
                fabric.backward(value)
                if schedule.clip is not None:
                    fabric.clip_gradients(wrapped, optimiser, max_norm=schedule.clip)
                optimiser.step()
                rates.step()
                meters.update(value.detach(), model)
                progress.advance(f"epoch {epoch} of {schedule.epochs}")
        wrapped.eval()
        with torch.no_grad():
            columns = dict(evaluate(wrapped))
        history.append({"epoch": epoch, **meters.row(), **columns, "seconds": timer.seconds})
        if best.stop(history[-1], model):
            break
    best.restore(model)
    last = history[-1]
    seconds = sum(row["seconds"] for row in history) / len(history)
    return Trained(last["train_loss"], last["f_forward"], last["f_backward"], seconds, history)


class _Meters:
    """The means over one epoch's batches."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torchmetrics.MeanMetric().to(device)
        self.forward = torchmetrics.MeanMetric()
        self.backward = torchmetrics.MeanMetric()
        self.solves = False

    def update(self, loss: Tensor, model: nn.Module) -> None:
        self.loss.update(loss)
        counts = measure.evaluations(model)
        if counts is not None:
            self.solves = True
            self.forward.update(float(counts[0]))
            self.backward.update(float(counts[1]))

    def row(self) -> dict[str, float | None]:
        return {
            "train_loss": float(self.loss.compute()),
            "f_forward": float(self.forward.compute()) if self.solves else None,
            "f_backward": float(self.backward.compute()) if self.solves else None,
        }


class _Best:
    """The best epoch so far, kept only where the schedule has patience."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.value = -math.inf
        self.waited = 0
        self.weights: dict[str, Any] | None = None

    def stop(self, row: Mapping[str, Any], model: nn.Module) -> bool:
        if self.schedule.patience is None:
            return False
        value = row[self.schedule.watch]
        value = value if self.schedule.higher_is_better else -value
        if value > self.value:
            self.value, self.waited = value, 0
            self.weights = copy.deepcopy(model.state_dict())
            return False
        self.waited += 1
        return self.waited >= self.schedule.patience

    def restore(self, model: nn.Module) -> None:
        if self.weights is not None:
            model.load_state_dict(self.weights)


def _half_cosine(steps: int) -> Callable[[int], float]:
    return lambda step: 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _constant(step: int) -> float:
    return 1.0


def _require_finite(loss: Tensor, epoch: int, number: int) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss.item()} in epoch {epoch}, batch {number}; lower the learning rate "
            "(--set learning_rate=...), or use a smaller step or an exact gradient such as direct"
        )


def loader(tensors: Batch, size: int, *, seed: int | None = None) -> DataLoader[Batch]:
    """Return batches of tensors that share dim 0; shuffled each epoch where a seed is given.

    Shuffled batches, which are for training, all have the same size where the data fill one.
    """
    data = TensorDataset(*tensors)
    order: Sampler[int] = SequentialSampler(data)
    if seed is not None:
        order = RandomSampler(data, generator=torch.Generator().manual_seed(seed))
    cut = seed is not None and len(data) >= size
    return DataLoader(data, sampler=BatchSampler(order, size, drop_last=cut), batch_size=None)


def make_fabric(device: str, precision: str) -> Fabric:
    """Return a Fabric on one device, "cpu", "cuda" or "cuda:1"; raises ArgumentError for others."""
    unknown = f"{device!r} is no device to train on; say cpu, cuda or cuda:1"
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ArgumentError(unknown) from None
    if wanted.type not in ("cpu", "cuda"):
        raise ArgumentError(unknown)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ArgumentError(
            f"the device {device!r} is not here ({torch.cuda.device_count()} CUDA devices found); "
            "use --device cpu"
        )
    devices: Any = [wanted.index] if wanted.index is not None else 1
    try:
        fabric = Fabric(accelerator=wanted.type, devices=devices, precision=precision)  # type: ignore[arg-type]
    except ValueError as error:
        raise ArgumentError(
            f"the device {device!r} with precision {precision!r}: {error}"
        ) from None
    fabric.launch()
    return fabric


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python for the body, and put their states back after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
