"""The task cifar10: where its images come from and what it does with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ode_core import ArgumentError, DataError
from ode_core.protocols import RunConfig
from ode_tasks import cifar10
from ode_tasks.cifar10 import PRESETS, Cifar10
from ode_tasks.data.cifar10 import CLASSES
from ode_tasks.run import Silent


def config(**changes):
    return RunConfig("cifar10", "odenet", "euler", "direct", **changes)


def test_the_task_says_how_to_give_it_data(tmp_path, monkeypatch):
    monkeypatch.setenv("ODE_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError) as caught:
        Cifar10().run(config(), Silent())
    for words in (f"not in {tmp_path / 'cifar10'};", "--data DIR", "--set download=true", "170 MB"):
        assert words in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of noise, five images of each class to train on and two to test on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                image.save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_the_task_trains_on_a_folder(folder):
    metrics = Cifar10().run(config(data=folder, settings={"width": "4"}), Silent())
    assert (metrics["train_images"], metrics["test_images"]) == (50, 20)
    assert metrics["score_name"] == "accuracy"
    assert (metrics["f_forward"], metrics["dt"]) == (1.0, 1.0)


def test_full_is_made_for_93_percent():
    full = PRESETS["full"]
    assert (full.train_images, full.test_images, full.validation_images) == (50_000, 10_000, 0)
    assert full.blocks == full.residual_blocks  # the same depth
    assert (full.precision, full.channels_last, full.cosine) == ("bf16-mixed", True, True)
    assert (full.crop, full.flip, full.label_smoothing) == (4, True, 0.1)


def test_the_code_of_full_runs_on_a_few_images(folder):
    sizes = {"train_images": 30, "validation_images": 20, "test_images": 10, "batch": 10}
    settings = {"width": "8", "epochs": "1"} | {name: str(size) for name, size in sizes.items()}
    rows = {}
    for model, solver in (("odenet", "rk4"), ("resnet", ""), ("no_block", "")):
        gradient = "direct" if solver else ""
        dt = 0.5 if solver else None
        run = RunConfig(
            "cifar10", model, solver, gradient, dt=dt, preset="full", data=folder, settings=settings
        )
        rows[model] = Cifar10().run(run, Silent())
    ode, residual, none = rows.values()
    assert (ode["ode_blocks"], ode["f_forward"]) == (6, 6 * 2 * 4)
    assert ode["ode_share"] >= 0.5
    assert residual["parameters"] == pytest.approx(ode["parameters"], rel=0.05)
    assert none["parameters"] < 0.5 * ode["parameters"]
    assert ode["flops"] > 6 * residual["flops"] > 6 * none["flops"]
    assert set(ode["finer"]) == {"euler_1", "euler_4", "dopri5_1e-5"}
    assert all(0 <= score <= 1 for score in ode["finer"].values())
    assert residual["finer"] == {}


def test_a_negative_number_of_images_is_refused():
    with pytest.raises(ArgumentError, match="train_images"):
        Cifar10().run(config(data=Path(), settings={"train_images": "-1"}), Silent())


def test_images_are_fetched_only_when_asked_for(folder, monkeypatch):
    fetched = []
    monkeypatch.setattr(cifar10.cifar10, "fetch", lambda where, progress: fetched.append(where))
    for download in ("false", "true"):
        Cifar10().run(config(data=folder, settings={"width": "4", "download": download}), Silent())
        assert fetched == ([folder] if download == "true" else [])


def test_without_a_folder_the_cache_is_looked_into(folder, monkeypatch):
    (folder.parent / "cache").mkdir(exist_ok=True)
    (folder.parent / "cache" / "cifar10").symlink_to(folder)
    monkeypatch.setenv("ODE_DATA_DIR", str(folder.parent / "cache"))
    metrics = Cifar10().run(config(settings={"width": "4"}), Silent())
    assert metrics["train_images"] == 50
