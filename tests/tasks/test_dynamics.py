"""Samples of known systems, what is measured against them, and the picture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import ode_core
from ode_core import ArgumentError, ModelRecord
from ode_core.protocols import RunConfig
from ode_tasks import linear, spiral
from ode_tasks.data.trajectories import Trajectories, noisy, sample, windows
from ode_tasks.dynamics import PORTRAIT
from ode_tasks.linear import Linear
from ode_tasks.run import Silent
from ode_tasks.spiral import Spiral

KNOWING = '''
import torch
import ode_core
from ode_tasks.linear import rotation


class Knowing(torch.nn.Module):
    """Knows the true field; what it learns has no effect."""

    def __init__(self, dim, width, **options):
        super().__init__()
        self.options = {name: value for name, value in options.items() if value is not None}
        self.nothing = torch.nn.Parameter(torch.zeros(()))
        self.stats = None

    def field(self, t, y):
        return rotation(t, y) + 0 * self.nothing

    def forward(self, y0, t):
        solution = ode_core.solve(self.field, y0, t, **self.options)
        self.stats = solution.stats
        return solution.ys
'''


def config(task="linear", solver="dopri5", **changes):
    fields = {"model": "neural_ode", "gradient": "direct"} | changes
    return RunConfig(task=task, solver=solver, **fields)


def test_the_linear_system_is_a_damped_rotation():
    samples = sample(linear.SYSTEM, 5, 60, spans=2, seed=0)
    assert samples.states.shape == (121, 5, 2)
    assert samples.times[-1] == 2 * linear.SYSTEM.duration
    start = torch.view_as_complex(samples.states[0].double())
    expected = start * torch.exp((-0.1 - 2j) * samples.times[:, None])
    assert torch.allclose(torch.view_as_complex(samples.states.double()), expected, atol=1e-5)


def test_the_cubic_system_at_a_point_by_hand():
    # y = (2, 1): y³ = (8, 1); (8, 1) A = (-0.8 - 2, 16 - 0.1).
    slope = spiral.cubic(torch.zeros(()), torch.tensor([[2.0, 1.0]]))
    assert torch.allclose(slope, torch.tensor([[-2.8, 15.9]]))


def test_starts_lie_between_the_radii_and_differ_by_seed():
    low, high = spiral.SYSTEM.radii
    first = sample(spiral.SYSTEM, 50, 1, spans=1, seed=0).states[0]
    assert (first.norm(dim=1) >= low - 1e-6).all()
    assert (first.norm(dim=1) <= high + 1e-6).all()
    assert not torch.equal(first, sample(spiral.SYSTEM, 50, 1, spans=1, seed=1).states[0])


def test_windows_are_every_stretch():
    states = torch.arange(2 * 5 * 2.0).reshape(5, 2, 2)  # 5 times, 2 trajectories
    starts, targets = windows(Trajectories(torch.arange(5.0), states), 3)
    assert starts.shape == (4, 2)
    assert targets.shape == (4, 3, 2)
    for start, target in zip(starts, targets, strict=True):
        time, number = divmod(int(start[0]) // 2, 2)
        assert torch.equal(start, states[time, number])
        assert torch.equal(target, states[time + 1 : time + 4, number])


def test_noise_has_the_size_that_is_asked_for():
    clean = Trajectories(torch.arange(500.0), 3 * torch.ones(500, 20, 2))
    rough = noisy(clean, 0.1, seed=0)
    assert (rough.states - clean.states).std().item() == pytest.approx(0.3, rel=0.03)
    assert torch.equal(noisy(clean, 0.0, seed=0).states, clean.states)


@pytest.fixture
def knowing(tmp_path, monkeypatch):
    (tmp_path / "knowing_model.py").write_text(KNOWING)
    monkeypatch.syspath_prepend(tmp_path)
    record = ModelRecord(
        "knowing", "knowing_model:Knowing", "it knows", fits="dynamics", solves=True
    )
    ode_core.register(record)
    yield "knowing"
    ode_core.registry.REGISTRY.remove("model", "knowing")


def test_a_model_that_knows_the_field_has_no_error(knowing):
    run = config(model=knowing, solver="dopri8", rtol=1e-7, atol=1e-7, settings={"epochs": "1"})
    metrics = Linear().run(run, Silent())
    for name in (
        "trajectory_error",
        "trajectory_error_beyond",
        "field_error",
        "field_error_beyond",
    ):
        assert metrics[name] < 1e-5, name
    assert metrics["solver_error"] < 1e-5
    assert metrics["score"] == metrics["trajectory_error"]
    assert metrics["higher_is_better"] is False


def test_the_solver_error_tells_the_orders_apart(knowing):
    errors = {
        solver: Linear().run(
            config(model=knowing, solver=solver, settings={"epochs": "1"}), Silent()
        )["solver_error"]
        for solver in ("euler", "midpoint", "rk4")
    }
    assert errors["euler"] > 1e-2
    assert errors["euler"] > 5 * errors["midpoint"] > 500 * errors["rk4"]


def test_noise_is_trained_on_and_not_tested_on(knowing):
    runs = [
        Linear().run(
            config(model=knowing, solver="rk4", settings={"epochs": "1", "noise": noise}), Silent()
        )
        for noise in ("0", "0.5")
    ]
    assert runs[1]["train_loss"] > 100 * runs[0]["train_loss"]
    assert runs[1]["trajectory_error"] == runs[0]["trajectory_error"]


@pytest.mark.parametrize(("task", "name"), [(Linear, "linear"), (Spiral, "spiral")])
def test_a_smoke_run_learns_and_leaves_a_picture(task, name, tmp_path):
    metrics = task().run(config(name, out=tmp_path), Silent())
    first, last = metrics["history"][0], metrics["history"][-1]
    assert last["train_loss"] < 0.2 * first["train_loss"]
    assert metrics["field_error"] < 0.5
    assert metrics["f_forward"] >= 8
    with Image.open(tmp_path / PORTRAIT) as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch, knowing):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*.png"))
    Linear().run(config(model=knowing, settings={"epochs": "1"}), Silent())
    assert sorted(tmp_path.rglob("*.png")) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": Path("x.csv")}, "makes its own samples"),
        ({"settings": {"window": "100"}}, "window is 100 of 60 samples"),
        ({"settings": {"trajectories": "0"}}, "trajectories and test_trajectories are at least 1"),
        ({"settings": {"noise": "-1"}}, "noise is not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        Linear().run(config(**changes), Silent())


def test_damping_is_seen_beyond_the_window():
    samples = sample(linear.SYSTEM, 5, 60, spans=2, seed=0).states.norm(dim=2)
    ratio = samples[-1] / samples[0]
    assert torch.allclose(ratio, torch.full((5,), math.exp(-0.1 * 12.0)), rtol=1e-4)
