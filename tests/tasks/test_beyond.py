"""The tasks beyond the study: what their samples are, what a run leaves, what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from PIL import Image

from ode_core import ArgumentError
from ode_core.protocols import PRESETS, RunConfig
from ode_core.registry import gradients, models, tasks
from ode_tasks import annuli, density, winding
from ode_tasks.data import points
from ode_tasks.data.series import spirals
from ode_tasks.run import Silent, execute
from ode_tasks.settings import build

MODULES = [annuli, density, winding]
TASKS = ["annuli", "density", "winding"]


def config(task, model=None, solver="dopri5", **changes):
    model = model or tasks[task].default_model
    gradient = "direct" if models[model].solves else ""
    solver = solver if models[model].solves else ""
    return RunConfig(task, model, solver, gradient, **changes)


@pytest.mark.parametrize("module", MODULES)
def test_every_setting_is_explained_and_smoke_is_the_smallest(module):
    found = module.PRESETS
    for settings in found.values():
        assert {field.name for field in dataclasses.fields(settings)} == set(found.meanings)
    for name in ("epochs", "width", "train_samples"):
        sizes = [getattr(found[preset], name) for preset in PRESETS]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("annuli", {"augment": "1", "kinetic": "0.1", "jacobian": "0.1"}),
        ("density", {"trace": "hutchinson", "kinetic": "0.1"}),
        ("winding", {"interpolation": "cubic", "dropped": "0.5"}),
    ],
)
def test_a_run_reports_what_others_do(task, settings, tmp_path):
    row = execute(config(task, settings=settings, out=tmp_path), Silent())
    assert row["status"] == "ok"
    assert math.isfinite(row["score"])
    assert row["f_forward"] > 0
    assert row["solver_error"] < 0.05
    assert len(row["history"]) == row["history"][-1]["epoch"]
    assert row["memory_bytes"] > 0


def test_a_density_run_leaves_a_picture_and_a_density(tmp_path):
    row = execute(config("density", out=tmp_path), Silent())
    assert row["integral"] == pytest.approx(1.0, abs=0.02)
    assert not row["higher_is_better"]
    with Image.open(tmp_path / density.PICTURE) as picture:
        assert picture.width > 2 * picture.height


def test_the_baseline_of_the_series_runs_and_solves_nothing():
    row = execute(config("winding", "gap_gru"), Silent())
    assert row["solver_error"] is None
    assert row["f_forward"] is None


def test_a_flow_of_the_line_cannot_do_what_one_more_dimension_can():
    """A flow of the line keeps the order of points, so that a threshold gets at most 3 of 4."""
    settings = {"dim": "1", "epochs": "25", "train_samples": "512", "width": "16"}
    changes = {"solver": "rk4", "settings": settings}
    plain = execute(config("annuli", **changes), Silent())
    assert plain["score"] < 0.8
    changes["settings"] = settings | {"augment": "1"}
    assert execute(config("annuli", **changes), Silent())["score"] > 0.95


@pytest.mark.parametrize("task", TASKS)
def test_a_probe_gives_a_loss_that_a_gradient_goes_through(task):
    asked = config(task)
    probe = tasks.create(task).probe(asked)
    model = build(asked, probe.settings, **probe.size)
    loss = probe.loss(model)
    loss.backward()
    assert loss.dim() == 0
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert gradients["direct"].exact


def test_spirals_wind_as_their_labels_say():
    found = spirals(40, 60, dropped=0.5, missing=0.0, noise=0.0, seed=0)
    assert found.times.shape == (40, 30)
    assert bool((found.times.diff(dim=1) > 0).all())
    x, y = found.values.unbind(-1)
    cross = x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]
    assert torch.equal((cross.sum(1) > 0).long(), found.labels)
    assert not torch.equal(found.times[0], found.times[1])


def test_readings_are_lost_as_often_as_asked():
    found = spirals(500, 40, dropped=0.7, missing=0.25, noise=0.1, seed=0)
    assert found.times.shape == (500, 12)
    assert float(found.values.isnan().float().mean()) == pytest.approx(0.25, abs=0.02)
    # The last of even numbers of times stays two.
    assert spirals(3, 4, dropped=0.99, missing=0.0, noise=0.0, seed=0).times.shape == (3, 2)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_annuli_have_a_gap_and_even_volumes(dim):
    found, labels = points.annuli(4000, dim, seed=0)
    radius = found.norm(dim=1)
    assert float(radius[labels == 0].max()) <= 0.5
    assert 1.0 <= float(radius[labels == 1].min()) < 1.05
    assert float(radius.max()) <= 1.5
    # Of a ball's volume a part of 2^-dim lies within half of its radius.
    inside = (radius[labels == 0] < 0.25).float().mean()
    assert float(inside) == pytest.approx(0.5**dim, abs=0.04)


def test_the_checkerboard_is_uniform_on_every_second_square():
    found = points.density("checkerboard", 8000, seed=0)
    square = found.floor().long()
    assert set((square.sum(1) % 2).tolist()) == {0}
    assert found.abs().max() <= 2.0
    _, numbers = torch.unique(square, dim=0, return_counts=True)
    assert len(numbers) == 8
    assert float(numbers.float().std()) < 100.0


@pytest.mark.parametrize("name", sorted(points.DENSITIES))
def test_densities_are_of_size_one_and_differ_by_seed(name):
    found = points.density(name, 2000, seed=0)
    assert found.shape == (2000, 2)
    assert 0.5 < float(found.std()) < 2.0
    assert not torch.equal(found, points.density(name, 2000, seed=1))


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("density", {"density": "rings"}, "density is one of moons, pinwheel"),
        ("winding", {"dropped": "1.0"}, "dropped and missing are parts"),
        ("winding", {"length": "1"}, "length is at least 2"),
        ("annuli", {"dim": "0"}, "dim is a number of dimensions from 1"),
        ("annuli", {"train_samples": "0"}, "train_samples and test_samples"),
        ("annuli", {"augment": "-1"}, "augment is a number of dimensions from 0"),
        ("winding", {"interpolation": "spline"}, "interpolation is one of"),
    ],
)
def test_wrong_settings_are_one_sentence(task, settings, words):
    with pytest.raises(ArgumentError) as caught:
        execute(config(task, settings=settings), Silent())
    assert words in str(caught.value)


def test_a_model_without_the_option_and_data_for_a_task_without_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="interpolation"):
        execute(config("winding", "gap_gru", settings={"interpolation": "linear"}), Silent())
    for task in TASKS:
        with pytest.raises(ArgumentError, match="makes its own samples"):
            execute(config(task, data=tmp_path), Silent())


def test_image_networks_are_augmented_and_regularised_by_settings():
    settings = {"epochs": "1", "train_images": "64", "test_images": "32", "width": "8"}
    plain = execute(config("digits", solver="euler", settings=settings), Silent())
    more = {"augment": "2", "kinetic": "5.0", "jacobian": "0.5"}
    wide = execute(config("digits", solver="euler", settings=settings | more), Silent())
    assert wide["parameters"] > plain["parameters"]
    assert wide["train_loss"] > plain["train_loss"] + 0.5
    with pytest.raises(ArgumentError, match="augment"):
        execute(config("digits", "resnet", settings=settings | {"augment": "2"}), Silent())
