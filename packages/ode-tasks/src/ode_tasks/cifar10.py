"""CIFAR-10: classify 32x32 colour images of ten kinds of things, from a folder of the user's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ode_core.errors import DataError
from ode_tasks.classification import ImageSettings, classify, probe
from ode_tasks.data import cifar10
from ode_tasks.presets import load
from ode_tasks.run import Silent
from ode_tasks.settings import choose

if TYPE_CHECKING:
    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.data.images import Split
    from ode_tasks.gradients.probe import Probe


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarSettings(ImageSettings):
    """Those of an image task, and whether to fetch the images where the folder has none."""

    crop: int = 4
    flip: bool = True
    download: bool = False


PRESETS = load("cifar10.toml", CifarSettings)


class Cifar10:
    """The task `cifar10`."""

    presets = PRESETS

    def run(self, config: RunConfig, progress: Progress) -> dict[str, Any]:
        """Train on the images in `config.data` and return the metrics.

        Raises DataError where there is no folder or it does not hold what it should.
        """
        settings = choose(PRESETS, config)
        return classify(config, settings, _images(config, settings, progress), progress=progress)

    def probe(self, config: RunConfig) -> Probe:
        """Return one batch and its loss; raises DataError like `run`."""
        settings = choose(PRESETS, config)
        return probe(config, settings, _images(config, settings, Silent()))


def _images(config: RunConfig, settings: CifarSettings, progress: Progress) -> Split:
    folder = config.data or cifar10.cached()
    archive = cifar10.ARCHIVE
    if settings.download or (config.data is None and (folder / archive.file).is_file()):
        cifar10.fetch(folder, progress)
    if config.data is None and not any(folder.glob("[!.]*")):
        raise DataError(
            f"CIFAR-10 is not in {folder}; pass --data DIR, or --set download=true to have its "
            f"{archive.bytes / 1e6:.0f} MB fetched, or put {archive.file} there by hand"
        )
    return cifar10.load(folder, settings.train_images, settings.test_images)
