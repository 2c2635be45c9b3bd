"""Least squares by local slopes and by shooting: noise is smoothed, and a field is found."""

from __future__ import annotations

import pytest
import torch

import ode_core
from ode_models import NeuralODE
from ode_tasks import linear, lotka_volterra
from ode_tasks.data.trajectories import Trajectories, noisy, sample, sample_irregular
from ode_tasks.run import Silent
from ode_tasks.shooting import Shooting, Smooth, _Roughness, smoothed
from ode_tasks.train import TrainingError


class Turning(torch.nn.Module):
    """A linear field with unknown coefficients, through its samples."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.zeros(2, 2))

    def field(self, t, y):
        return y @ self.matrix.T

    def forward(self, y0, t):
        stepping = "per_sample" if t.dim() == 2 else "shared"
        return ode_core.solve(self.field, y0, t, solver="rk4", dt=0.1, stepping=stepping).ys


@pytest.mark.parametrize("own_times", [False, True])
def test_a_cubic_is_smoothed_without_an_error(own_times):
    times = torch.linspace(0.0, 2.0, 15, dtype=torch.float64)
    if own_times:
        times = torch.stack((times, times**2, times.sqrt()))
    at = times.T[..., None] if own_times else times[:, None, None].expand(-1, 3, 1)
    states = torch.cat([at**3 - at, 2 * at**2], dim=-1)
    smooth = smoothed(Trajectories(times, states))
    assert torch.allclose(smooth.states, states, atol=1e-9)
    assert torch.allclose(smooth.slopes, torch.cat([3 * at**2 - 1, 4 * at], -1), atol=1e-8)


def test_smoothing_takes_noise_away():
    clean = sample(linear.SYSTEM, 20, 60, spans=1, seed=0)
    rough = noisy(clean, 0.05, seed=1)
    left = (smoothed(rough).states - clean.states).square().mean().sqrt()
    assert left < 0.7 * 0.05


@pytest.mark.parametrize("irregular", [False, True])
def test_a_rotation_is_found_from_noisy_samples(irregular):
    if irregular:
        clean = sample_irregular(linear.SYSTEM, 20, 60, seed=0)
    else:
        clean = sample(linear.SYSTEM, 20, 60, spans=1, seed=0)
    samples = noisy(clean, 0.05, seed=1)
    model, fitting = Turning(), Shooting(slopes=1000, lengths=(10, 25), iterations=50)
    smooth = fitting.start(model, samples)
    true = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    left = fitting.finish(model, samples, smooth, Silent())
    assert (model.matrix - true).abs().max() < 0.02
    # What is left is the noise, less what the free starts follow.
    assert left * samples.states.square().mean() == pytest.approx(0.05**2, rel=0.1)


def test_the_perceptron_is_given_the_units_of_the_data():
    samples = sample(lotka_volterra.SYSTEM, 10, 40, spans=1, seed=0)
    model = NeuralODE(2, 8, solver="rk4", dt=0.2)
    Shooting(slopes=1, lengths=(), iterations=1).start(model, samples)
    assert torch.allclose(model.field.state_unit, samples.states.flatten(0, 1).std(0), rtol=0.01)
    assert "field.slope_unit" in model.state_dict()


def test_a_fit_that_diverges_says_so(monkeypatch):
    samples = sample(linear.SYSTEM, 4, 20, spans=1, seed=0)
    model = Turning()
    fitting = Shooting(slopes=0, lengths=(5,), iterations=2)
    smooth = fitting.start(model, samples)
    with torch.no_grad():
        model.matrix.fill_(torch.nan)
    monkeypatch.setattr(model, "forward", lambda y0, t: y0.expand(len(t), *y0.shape) * torch.nan)
    with pytest.raises(TrainingError, match="shorten the first stretch"):
        fitting.finish(model, samples, smooth, Silent())


def test_roughness_leaves_quadratic_fields_alone_and_weighs_others():
    class Power(torch.nn.Module):
        def __init__(self, power):
            super().__init__()
            self.power = power

        def field(self, t, y):
            return y**self.power

    smooth = smoothed(sample(linear.SYSTEM, 10, 60, spans=1, seed=0))
    double = Smooth(smooth.states.double(), smooth.slopes.double())
    assert _Roughness(double, 1.0)(Power(2)) < 1e-25
    rough = _Roughness(double, 1.0)(Power(3))
    assert rough > 1e-4
    assert _Roughness(double, 3.0)(Power(3)) == pytest.approx(3 * float(rough))
    assert _Roughness(double, 0.0)(Power(3)) == 0.0


def test_a_smoother_field_is_found_where_roughness_costs():
    samples = noisy(sample(linear.SYSTEM, 4, 20, spans=1, seed=0), 0.1, seed=1)
    left = {}
    for weight in (0.0, 1e3):
        torch.manual_seed(0)
        model = NeuralODE(2, 16, solver="rk4", dt=0.3)
        fitting = Shooting(slopes=50, lengths=(5,), iterations=40, roughness=weight)
        fitting.finish(model, samples, fitting.start(model, samples), Silent())
        left[weight] = float(_Roughness(smoothed(samples), 1.0)(model).detach())
    assert left[1e3] < 0.3 * left[0.0]
