"""The training loop of every task."""

from __future__ import annotations

import copy
import math
import signal
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ode_core.errors import ArgumentError, OdeError
from ode_tasks import devices, measure, record
from ode_tasks.batches import Batch, Batches, loader
from ode_tasks.devices import make_fabric, seeded
from ode_tasks.position import Position
from ode_tasks.schedule import Schedule
from ode_tasks.stopping import Asked, Stopped, deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lightning_fabric import Fabric
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ode_core.protocols import Progress, RunConfig

    Loss = Callable[[nn.Module, Batch], Tensor]
    Evaluate = Callable[[nn.Module], Mapping[str, float]]

__all__ = [
    "Batch", "Batches", "Schedule", "Trained", "TrainingError", "fit", "loader", "make_fabric",
    "seeded",
]  # fmt: skip


class TrainingError(OdeError):
    """Training that cannot go on because its loss is no longer a number."""


class Trained(NamedTuple):
    """What training left.

    The loss and evaluations of the last epoch, the mean seconds of one, a row for each, and the row
    of the epoch whose weights the model has.
    """

    loss: float
    f_forward: float | None
    f_backward: float | None
    epoch_seconds: float
    history: list[dict[str, Any]]
    row: dict[str, Any]

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
    batches: Batches,
    loss: Loss,
    *,
    optimiser: Optimizer,
    schedule: Schedule,
    evaluate: Evaluate,
    fabric: Fabric,
    progress: Progress,
    config: RunConfig | None = None,
) -> Trained:
    """Train the model in place and return what it cost.

    `loss(model, batch)` gives the scalar to minimise, a mean over the batch; `evaluate(model)` runs
    after each epoch, in evaluation mode and without gradients, and its columns join the history.
    With a `config` that asks for it, every epoch leaves a checkpoint, and training goes on from the
    last one. Raises TrainingError when the loss is not finite, Stopped when a signal asks for it.
    """
    training = _Training(
        model, batches, loss, optimiser, schedule=schedule, evaluate=evaluate, fabric=fabric
    )
    kept = record.keeper(config)
    try:
        training.begin(kept, config.seed if config else 0)
        training.run(kept, progress, saves=config is not None and config.checkpoint)
    finally:
        kept.close()
    return training.trained()


class _Training:
    """A model, what trains it, and how far it has come."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss,
        optimiser: Optimizer,
        *,
        schedule: Schedule,
        evaluate: Evaluate,
        fabric: Fabric,
    ) -> None:
        self.model, self.loss, self.evaluate = model, loss, evaluate
        self.schedule, self.fabric = schedule, fabric
        self.batches = batches.part(fabric.global_rank, fabric.world_size)
        self.wrapped, self.optimiser = fabric.setup(model, optimiser)
        self.rates = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: schedule.factor(step, len(batches))
        )
        self.at = Position(order=self.batches.state())
        self.plain_optimiser = optimiser

    def begin(self, kept: record.Record, seed: int) -> None:
        """Go on from where the record says, or begin; every process with its own chance."""
        saved = self.fabric.broadcast(kept.load())
        states = saved["random"] if saved else []
        if saved:
            self._restore(saved)
        rank, count = self.fabric.global_rank, self.fabric.world_size
        if len(states) == count:
            devices.set_random_state(states[rank], self.fabric.device)
        elif count > 1 or saved:  # what processes draw has to differ, and to be drawn once
            devices.seed_all(seed + rank + count * self.at.step)

    def run(self, kept: record.Record, progress: Progress, *, saves: bool) -> None:
        """Train to the last epoch or to the end of patience; raises Stopped at a signal."""
        left = self.schedule.epochs * len(self.batches) - self.at.step
        progress.start(left, self._text())
        with deferred() if saves else nullcontext(Asked()) as asked:
            while self.at.epoch <= self.schedule.epochs and not self._waited_enough():
                stop = self._epoch(kept, progress, asked)
                if saves:
                    self._save(kept)
                if stop:
                    break
                kept.epoch(self.at.history[-1], self.at.step)
            else:
                stop = bool(asked.number)
        if stop:
            raise Stopped(asked.number or signal.SIGTERM, saved=True)
        if self.at.best_weights is not None:
            self.model.load_state_dict(self.at.best_weights)

    def trained(self) -> Trained:
        """Return what the training left."""
        history = self.at.history
        last = history[-1]
        seconds = sum(row["seconds"] for row in history) / len(history)
        row = history[self.at.best_epoch - 1] if self.at.best_weights is not None else last
        return Trained(
            last["train_loss"], last["f_forward"], last["f_backward"], seconds, history, row
        )

    def _epoch(self, kept: record.Record, progress: Progress, asked: Asked) -> bool:
        """Train what is left of an epoch and score it; return whether a signal cut it short."""
        self.wrapped.train()
        stop = False
        with measure.timed(self.fabric.device) as timer:
            for batch in self.batches.after(self.at.batch):
                stop = self._step(self.fabric.to_device(batch), kept, asked)
                progress.advance(self._text())
                if stop:
                    break
        self.at.add(seconds=timer.seconds)
        if not stop:
            self._score()
        return stop

    def _step(self, batch: Batch, kept: record.Record, asked: Asked) -> bool:
        at = self.at
        with self._solvable():
            value = self.loss(self.wrapped, batch)
        number, stop = self._agreed(value, asked)
        if not math.isfinite(number):
            raise self._diverged(f"the loss is {number}")
        rate = self.rates.get_last_lr()[0]
        self.optimiser.zero_grad()
        self.fabric.backward(value)
        if self.schedule.clip < math.inf:
            self.fabric.clip_gradients(self.wrapped, self.optimiser, max_norm=self.schedule.clip)
        self.optimiser.step()
        self.rates.step()
        at.batch, at.step = at.batch + 1, at.step + 1
        at.add(loss=number)
        counts = measure.evaluations(self.model)
        if counts is not None:
            at.add(forward=counts[0], backward=counts[1])
        row = {"step": at.step, "epoch": at.epoch, "loss": number, "learning_rate": rate}
        kept.step(row)
        return stop

    @contextmanager
    def _solvable(self) -> Iterator[None]:
        """Say of a state that was fit to be solved from, and no longer is, that training did it."""
        try:
            yield
        except ArgumentError as error:
            if self.at.step == 0:
                raise
            raise self._diverged(str(error)) from error

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} in epoch {self.at.epoch}, batch {self.at.batch + 1}; lower the learning rate "
            "(--set learning_rate=...), or use a smaller step or an exact gradient such as direct"
        )

    def _agreed(self, value: Tensor, asked: Asked) -> tuple[float, bool]:
        """Return the mean loss of all processes, and whether a signal has reached one of them."""
        if self.fabric.world_size == 1:
            return value.item(), bool(asked.number)
        both = torch.stack((value.detach().double(), value.new_tensor(asked.number).double()))
        summed: Any = self.fabric.all_reduce(both, reduce_op="sum")
        total, signals = summed.tolist()
        return total / self.fabric.world_size, bool(signals)

    def _score(self) -> None:
        at = self.at
        self.wrapped.eval()
        with torch.no_grad(), self._solvable():
            found = {name: _number(value) for name, value in self.evaluate(self.wrapped).items()}
        columns = self.fabric.broadcast(found)  # rounding must not let the processes disagree
        row = {"epoch": at.epoch, **at.means(), **columns, "seconds": at.sums["seconds"]}
        at.history.append(row)
        if self.schedule.patience is not None:
            self._compare(row)
        at.epoch, at.batch, at.sums, at.order = at.epoch + 1, 0, {}, self.batches.state()

    def _compare(self, row: Mapping[str, Any]) -> None:
        value = row[self.schedule.watch]
        value = value if self.schedule.higher_is_better else -value
        if value > self.at.best:
            self.at.best, self.at.best_epoch = value, row["epoch"]
            self.at.best_weights = copy.deepcopy(self.model.state_dict())

    def _waited_enough(self) -> bool:
        patience = self.schedule.patience
        return patience is not None and self.at.epoch - 1 - self.at.best_epoch >= patience

    def _save(self, kept: record.Record) -> None:
        kept.save(
            {
                "position": vars(self.at),
                "batches": len(self.batches),
                "model": self.model.state_dict(),
                "optimizer": self.plain_optimiser.state_dict(),
                "schedule": self.rates.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                "random": devices.gathered(devices.random_state(self.fabric.device)),
            }
        )

    def _restore(self, saved: Mapping[str, Any]) -> None:
        if saved["batches"] != len(self.batches):
            raise ArgumentError(
                f"the checkpoint is of a run with {saved['batches']} batches an epoch, and these "
                f"data make {len(self.batches)}; give the same data, or choose another --out"
            )
        self.at = Position(**saved["position"])
        try:
            self.model.load_state_dict(saved["model"])
            self.plain_optimiser.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ArgumentError(
                f"the checkpoint does not fit this model ({' '.join(str(error).split())}); go on "
                "with the versions that made it, or choose another --out"
            ) from None
        self.rates.load_state_dict(saved["schedule"])
        self.fabric.strategy.precision.load_state_dict(saved["scaler"])
        self.batches.set_state(self.at.order)

    def _text(self) -> str:
        return f"epoch {self.at.epoch} of {self.schedule.epochs}"


def _number(value: Any) -> Any:
    """Return a plain number, which a checkpoint may hold, of one that numpy or torch made."""
    return value.item() if hasattr(value, "item") else value
