"""Image classification, shared by every image task: train, score, and measure the solves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ode_core.errors import ArgumentError
from ode_tasks import measure
from ode_tasks.data.images import Normalise, crop, flip
from ode_tasks.gradients.probe import Probe
from ode_tasks.settings import Settings, build, direct_twin, solving
from ode_tasks.torchvision_import import torchmetrics
from ode_tasks.train import Schedule, fit, loader, make_fabric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.images import Split
    from ode_tasks.train import Batch

# Enough images to see the solver's error, few enough to solve them almost exactly.
_ERROR_IMAGES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """The settings of an image task.

    `train_images` and `test_images` are the most that are used. Stochastic gradient descent with
    momentum, its rate falling along half a cosine; `crop` is by how many pixels an image may be
    moved, `flip` whether half of them are mirrored.
    """

    train_images: int
    test_images: int
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        """Raise ArgumentError for settings that leave nothing to train or to test on."""
        super().__post_init__()
        for name, least in (("train_images", 1), ("test_images", 1), ("crop", 0)):
            if getattr(self, name) < least:
                raise ArgumentError(
                    f"{name} is {getattr(self, name)}; it is a whole number from {least}"
                )


def classify(
    config: RunConfig, settings: ImageSettings, data: Split, *, progress: Progress
) -> dict[str, Any]:
    """Train the config's model on the images and return the metrics of the run."""
    fabric = make_fabric(config.device, settings.precision)
    normalise = Normalise.of(data.train)
    size = {
        "channels": data.train.pixels.shape[1],
        "classes": len(data.classes),
        "width": settings.width,
    }
    model = build(config, settings, **size)
    test = loader(data.test, 2 * settings.batch)
    trained = fit(
        model,
        loader(data.train, settings.batch, seed=config.seed),
        _Loss(settings, normalise),
        optimiser=torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        ),
        schedule=Schedule(settings.epochs, cosine=True),
        evaluate=_Score(test, normalise, len(data.classes), fabric),
        fabric=fabric,
        progress=progress,
    )
    pixels, labels = fabric.to_device(tuple(part[: settings.batch] for part in data.train))
    images = normalise(pixels)
    last = trained.history[-1]
    return {
        **solving(config, settings),
        "loss": last["test_loss"],
        "score": last["test_score"],
        "score_name": "accuracy",
        "higher_is_better": True,
        **trained.columns(),
        "solver_error": measure.solver_error(
            model, normalise(fabric.to_device(data.test.pixels[:_ERROR_IMAGES]))
        ),
        **measure.memory_columns(
            model,
            direct_twin(config, settings, model, **size),
            lambda net: F.cross_entropy(net(images), labels),
            inputs=(images, labels),
        ),
        "train_images": len(data.train.labels),
        "test_images": len(data.test.labels),
        "history": trained.history,
    }


def probe(config: RunConfig, settings: ImageSettings, data: Split) -> Probe:
    """Return one batch of the images, not augmented, and the loss of a model on it."""
    batch = tuple(part[: settings.batch].to(config.device) for part in data.train)
    images, labels = Normalise.of(data.train)(batch[0]), batch[1]
    return Probe(
        settings,
        {
            "channels": images.shape[1],
            "classes": len(data.classes),
            "width": settings.width,
        },
        lambda net: F.cross_entropy(net(images), labels),
        (images, labels),
    )


@dataclasses.dataclass(frozen=True)
class _Loss:
    """The mean cross entropy of a training batch, augmented and normalised."""

    settings: ImageSettings
    normalise: Normalise

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        images = self.normalise(batch[0])
        images = crop(images, self.settings.crop) if self.settings.crop else images
        images = flip(images) if self.settings.flip else images
        return F.cross_entropy(model(images), batch[1])


@dataclasses.dataclass(frozen=True)
class _Score:
    """Accuracy and mean cross entropy over the test images."""

    batches: Iterable[Batch]
    normalise: Normalise
    classes: int
    fabric: Fabric

    def __call__(self, model: nn.Module) -> dict[str, float]:
        accuracy = torchmetrics.classification.MulticlassAccuracy(self.classes, average="micro")
        accuracy, loss = accuracy.to(self.fabric.device), torchmetrics.MeanMetric()
        for batch in self.batches:
            pixels, labels = self.fabric.to_device(batch)
            logits = model(self.normalise(pixels)).float()
            accuracy.update(logits, labels)
            loss.update(float(F.cross_entropy(logits, labels)), len(labels))
        return {"test_score": float(accuracy.compute()), "test_loss": float(loss.compute())}
