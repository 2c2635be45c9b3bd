"""Image classification, shared by every image task: train, score, and measure the solves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ode_core.errors import ArgumentError
from ode_core.registry import models
from ode_tasks import measure, work_precision
from ode_tasks.data.images import Images, Normalise, balanced, crop, flip
from ode_tasks.finer import finer
from ode_tasks.gradients.probe import Probe
from ode_tasks.networks import gradient_columns, size_columns
from ode_tasks.penalty import penalties
from ode_tasks.settings import Settings, build, direct_twin, options, solving
from ode_tasks.torchvision_import import torchmetrics
from ode_tasks.train import fit, loader, make_fabric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.images import Split
    from ode_tasks.train import Batch, Trained

# Enough images to see the solver's error, few enough to solve them almost exactly.
_ERROR_IMAGES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """The settings of an image task.

    `train_images` and `test_images` are the most that are used. Stochastic gradient descent with
    momentum; `crop` is by how many pixels an image may be moved, `flip` whether half of them are
    mirrored. `validation_images` of those to train on are held out and scored after each epoch;
    with `patience`, training stops after so many epochs without a better accuracy on them.
    `channels_last` is the memory layout of images and filters. A network has blocks at so many
    `stages`: `blocks` ODEs at each, or `residual_blocks` where it solves nothing. ODEs go through
    `augment` further channels; `kinetic` and `jacobian` weigh RNODE's regularisers.
    """

    train_images: int
    test_images: int
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop: int = 0
    flip: bool = False
    label_smoothing: float = 0.0
    stages: int = 1
    blocks: int = 1
    residual_blocks: int = 6
    validation_images: int = 0
    patience: int = 0
    channels_last: bool = False
    augment: int = 0
    kinetic: float = 0.0
    jacobian: float = 0.0

    def __post_init__(self) -> None:
        """Raise ArgumentError for settings that leave nothing to train, to choose or to test on."""
        super().__post_init__()
        counted = ("train_images", "test_images", "stages", "blocks", "residual_blocks")
        least = dict.fromkeys(counted, 1) | dict.fromkeys(("crop", "validation_images"), 0)
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ArgumentError(
                    f"{name} is {getattr(self, name)}; it is a whole number from {lowest}"
                )
        if self.validation_images >= self.train_images:
            raise ArgumentError(
                f"validation_images is {self.validation_images} of {self.train_images} training "
                "images; hold out fewer"
            )
        if self.patience < 0 or (self.patience and not self.validation_images):
            raise ArgumentError(
                "patience stops by the score of images that are neither trained nor tested on; "
                "hold some out with --set validation_images=..., or leave patience at 0"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ArgumentError(
                f"label_smoothing is {self.label_smoothing}; it is a number from 0 and below 1"
            )

    def size(self, config: RunConfig, data: Split) -> dict[str, Any]:
        """Return what a model for these images is made with."""
        count = self.blocks if models[config.model].solves else self.residual_blocks
        return {
            "channels": data.train.pixels.shape[1],
            "classes": len(data.classes),
            "width": self.width,
            "blocks": (count,) * self.stages,
            **options(self, "augment", "kinetic", "jacobian"),
        }


def classify(
    config: RunConfig, settings: ImageSettings, data: Split, *, progress: Progress
) -> dict[str, Any]:
    """Train the config's model on the images and return the metrics of the run."""
    fabric = make_fabric(config.device, settings.precision)
    train, held = _hold_out(data.train, settings.validation_images)
    prepare = _Prepare(Normalise.of(train), settings.channels_last)
    size = settings.size(config, data)
    model: Any = build(config, settings, **size)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    parts = {"validation": held, "test": data.test} if len(held.labels) else {"test": data.test}
    scores = _Scores(
        {name: loader(part, 2 * settings.batch) for name, part in parts.items()},
        prepare,
        len(data.classes),
        fabric,
    )
    trained = fit(
        model,
        loader(train, settings.batch, seed=config.seed),
        _Loss(settings, prepare),
        optimiser=torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        ),
        schedule=settings.schedule(patience=settings.patience or None, watch="validation_score"),
        evaluate=scores,
        fabric=fabric,
        progress=progress,
        config=config,
    )
    pixels, labels = fabric.to_device(tuple(part[: settings.batch] for part in train))
    images = prepare(pixels)
    few = prepare(fabric.to_device(data.test.pixels[:_ERROR_IMAGES]))
    twin = direct_twin(config, settings, model, **size)

    def loss(net: nn.Module) -> Tensor:
        with fabric.autocast():
            return F.cross_entropy(net(images), labels)

    return {
        **solving(config, settings),
        **_outcome(trained),
        "solver_error": measure.solver_error(model, few),
        "work_precision": work_precision.of_model(model, work_precision.how(config, settings), few),
        **measure.memory_columns(model, twin, loss, inputs=(images, labels)),
        **gradient_columns(model, twin, loss),
        **size_columns(model, images[:_ERROR_IMAGES]),
        "finer": scores.finer(model),
        "train_images": len(train.labels),
        "validation_images": len(held.labels),
        "test_images": len(data.test.labels),
        "history": trained.history,
    }


def _outcome(trained: Trained) -> dict[str, Any]:
    """Return what the test images say, and what the training cost."""
    return {
        "loss": trained.row["test_loss"],
        "score": trained.row["test_score"],
        "score_name": "accuracy",
        "higher_is_better": True,
        **trained.columns(),
    }


def _hold_out(images: Images, count: int) -> tuple[Images, Images]:
    """Return what is left to train on, and so many held out, the last of every class in turn."""
    last = balanced(images.labels.numpy()[::-1].copy(), count)
    held = torch.zeros(len(images.labels), dtype=torch.bool)
    held[len(held) - 1 - torch.from_numpy(last)] = True
    return Images(*(part[~held] for part in images)), Images(*(part[held] for part in images))


def probe(config: RunConfig, settings: ImageSettings, data: Split) -> Probe:
    """Return one batch of the images, not augmented, and the loss of a model on it."""
    batch = tuple(part[: settings.batch].to(config.device) for part in data.train)
    images, labels = Normalise.of(data.train)(batch[0]), batch[1]
    return Probe(
        settings,
        settings.size(config, data),
        lambda net: F.cross_entropy(net(images), labels),
        (images, labels),
    )


@dataclasses.dataclass(frozen=True)
class _Prepare:
    """Turns `[B, C, H, W]` uint8 into what the model takes, augmented by settings if given."""

    normalise: Normalise
    channels_last: bool

    def __call__(self, pixels: Tensor, augment: ImageSettings | None = None) -> Tensor:
        images = self.normalise(pixels)
        if augment is not None:
            images = crop(images, augment.crop) if augment.crop else images
            images = flip(images) if augment.flip else images
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)


@dataclasses.dataclass(frozen=True)
class _Loss:
    """The mean cross entropy of a training batch, augmented and normalised."""

    settings: ImageSettings
    prepare: _Prepare

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(self.prepare(batch[0], self.settings))
        smoothing = self.settings.label_smoothing
        loss = F.cross_entropy(logits, batch[1], label_smoothing=smoothing)
        return loss + penalties(model)


@dataclasses.dataclass(frozen=True)
class _Scores:
    """Accuracy and mean cross entropy over the images of each part, in columns by its name."""

    parts: Mapping[str, Iterable[Batch]]
    prepare: _Prepare
    classes: int
    fabric: Fabric

    def __call__(self, model: nn.Module) -> dict[str, float]:
        columns: dict[str, float] = {}
        for name, batches in self.parts.items():
            score, loss = self._score(model, batches)
            columns |= {f"{name}_score": score, f"{name}_loss": loss}
        return columns

    def _score(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
        accuracy = torchmetrics.classification.MulticlassAccuracy(self.classes, average="micro")
        accuracy, loss = accuracy.to(self.fabric.device), torchmetrics.MeanMetric()
        for batch in batches:
            pixels, labels = self.fabric.to_device(batch)
            logits = model(self.prepare(pixels)).float()
            accuracy.update(logits, labels)
            loss.update(float(F.cross_entropy(logits, labels)), len(labels))
        return float(accuracy.compute()), float(loss.compute())

    @torch.no_grad()
    def finer(self, model: nn.Module) -> dict[str, float | None]:
        """Return the test accuracy with the model's blocks solved otherwise than in training."""
        return finer(model.eval(), lambda net: self._score(net, self.parts["test"])[0])
