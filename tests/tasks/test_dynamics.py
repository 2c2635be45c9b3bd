"""Samples of known systems, what is measured against them, and the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import ode_core
from ode_core import ArgumentError, ModelRecord
from ode_core.protocols import RunConfig
from ode_tasks import linear, spiral
from ode_tasks.data.trajectories import (
    Box,
    Trajectories,
    noisy,
    sample,
    sample_irregular,
    windows,
)
from ode_tasks.dynamics import PORTRAIT
from ode_tasks.linear import Linear
from ode_tasks.lotka_volterra import LotkaVolterra, predation
from ode_tasks.pendulum import Pendulum, swing
from ode_tasks.run import Silent
from ode_tasks.spiral import Spiral
from ode_tasks.van_der_pol import VanDerPol, relaxation

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


def test_starts_lie_in_the_ring_and_differ_by_seed():
    first = sample(linear.SYSTEM, 50, 1, spans=1, seed=0).states[0]
    assert (first.norm(dim=1) >= 0.5 - 1e-6).all()
    assert (first.norm(dim=1) <= 2.0 + 1e-6).all()
    assert not torch.equal(first, sample(linear.SYSTEM, 50, 1, spans=1, seed=1).states[0])


def test_starts_fill_the_box():
    drawn = Box((-2.0, 1.0), (2.0, 5.0)).draw(2_000, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.amin(0), torch.tensor([-2.0, 1.0]).double(), atol=0.02)
    assert torch.allclose(drawn.amax(0), torch.tensor([2.0, 5.0]).double(), atol=0.02)
    assert torch.allclose(drawn.mean(0), torch.tensor([0.0, 3.0]).double(), atol=0.1)


def test_irregular_samples_lie_on_their_trajectories_at_their_own_times():
    samples = sample_irregular(linear.SYSTEM, 5, 30, seed=0)
    assert samples.times.shape == (5, 31)
    assert (samples.times[:, 0] == 0).all()
    assert (samples.times.diff(dim=1) > 0).all()
    assert samples.times.max() <= linear.SYSTEM.duration
    assert len(samples.times[:, 1:].flatten().unique()) == 150
    start = torch.view_as_complex(samples.states[0].double())
    expected = start * torch.exp((-0.1 - 2j) * samples.times.T)
    assert torch.allclose(torch.view_as_complex(samples.states.double()), expected, atol=1e-5)


def test_irregular_windows_come_with_their_times():
    times = torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 2.5]], dtype=torch.float64)
    states = torch.arange(12.0).reshape(3, 2, 2)
    starts, targets, own = windows(Trajectories(times, states), 1)
    assert torch.equal(starts, states[:2].flatten(0, 1))
    assert torch.equal(targets[:, 0], states[1:].flatten(0, 1))
    assert own.tolist() == [[0.0, 1.0], [0.0, 2.0], [0.0, 2.0], [0.0, 0.5]]


@pytest.mark.parametrize(
    ("field", "at", "slope"),
    [
        (predation, (3.0, 2.0), (0.0, 0.0)),  # where neither number changes
        (predation, (1.0, 1.0), (0.5, -0.5)),
        (relaxation, (2.0, 1.0), (1.0, -26.0)),
        (swing, (torch.pi / 2, 2.0), (2.0, -1.4)),
    ],
)
def test_systems_at_a_point_by_hand(field, at, slope):
    assert torch.allclose(field(torch.zeros(()), torch.tensor([at])), torch.tensor([slope]))


def test_van_der_pol_gets_stiff():
    point = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: relaxation(None, y).sum(0), point)
    rates = torch.linalg.eigvals(jacobian[:, 0]).real.abs().sort().values
    assert rates[1] / rates[0] > 500


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
    assert (rough.states - clean.states).std().item() == pytest.approx(0.1, rel=0.03)
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


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (Linear, "linear"),
        (Spiral, "spiral"),
        (LotkaVolterra, "lotka_volterra"),
        (Pendulum, "pendulum"),
        (VanDerPol, "van_der_pol"),
    ],
)
def test_a_smoke_run_learns_and_leaves_a_picture(task, name, tmp_path):
    metrics = task().run(config(name, out=tmp_path), Silent())
    first, last = metrics["history"][0], metrics["history"][-1]
    assert last["train_loss"] < 0.2 * first["train_loss"]
    assert metrics["field_error"] < 0.5
    assert metrics["f_forward"] >= 8
    json.dumps(metrics)
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
        ({"settings": {"shoot": "10,61"}}, "shoot is .10, 61.; a stretch has .* all 60"),
        ({"settings": {"slopes": "-1"}}, "slopes is at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        Linear().run(config(**changes), Silent())


def test_damping_is_seen_beyond_the_window():
    samples = sample(linear.SYSTEM, 5, 60, spans=2, seed=0).states.norm(dim=2)
    ratio = samples[-1] / samples[0]
    assert torch.allclose(ratio, torch.full((5,), math.exp(-0.1 * 12.0)), rtol=1e-4)
