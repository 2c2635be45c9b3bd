"""Least squares by local slopes and by shooting: noise is smoothed, and a field is found."""

from __future__ import annotations

import pytest
import torch

import ode_core
from ode_models import NeuralODE
from ode_tasks import linear, lotka_volterra, pendulum
from ode_tasks.data.trajectories import Trajectories, noisy, sample, sample_irregular
from ode_tasks.gauss_newton import Fit, Normal, minimise
from ode_tasks.measure import relative_rms
from ode_tasks.run import Silent
from ode_tasks.sensitivity import Flow, WeighedField
from ode_tasks.shooting import Shooting, _cut, _Stretches, smoothed
from ode_tasks.smoothness import ORDERS, Differences, first_strengths, next_strengths
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


class Power(torch.nn.Module):
    """The field c y^power."""

    def __init__(self, power):
        super().__init__()
        self.power, self.c = power, torch.nn.Parameter(torch.ones(()))

    def field(self, t, y):
        return self.c * y**self.power


def shooting(slopes=20, lengths=(), iterations=20):
    return Shooting(slopes, lengths, iterations, "rk4", 0.1)


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
    model, fitting = Turning(), shooting(lengths=(10, 25), iterations=6)
    true = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    left = fitting.fit(model, samples, fitting.measure(model, samples), Silent())
    assert (model.matrix - true).abs().max() < 0.02
    # What is left is the noise, less what the free starts follow.
    assert left * samples.states.square().mean() == pytest.approx(0.05**2, rel=0.1)


def test_a_field_that_is_not_polynomial_is_found_from_few_samples():
    samples = noisy(sample(pendulum.SYSTEM, 20, 20, spans=1, seed=0), 0.02, seed=1)
    torch.manual_seed(0)
    model = NeuralODE(2, 8, solver="rk4", dt=0.2)
    fitting = shooting(lengths=(10,), iterations=8)
    fitting.fit(model, samples, fitting.measure(model, samples), Silent())
    points = sample(pendulum.SYSTEM, 30, 20, spans=1, seed=2).states.flatten(0, 1)
    time = torch.zeros(())
    learned = model.field(time, points).detach()
    assert relative_rms(learned, pendulum.swing(time, points)) < 0.05


def test_the_perceptron_is_given_the_units_of_the_data():
    samples = sample(lotka_volterra.SYSTEM, 10, 40, spans=1, seed=0)
    model = NeuralODE(2, 8, solver="rk4", dt=0.2)
    shooting(slopes=1).measure(model, samples)
    assert torch.allclose(model.field.state_unit, samples.states.flatten(0, 1).std(0), rtol=0.01)
    assert "field.slope_unit" in model.state_dict()


def test_without_steps_a_model_is_left_alone():
    samples = sample(lotka_volterra.SYSTEM, 10, 40, spans=1, seed=0)
    model, fitting = NeuralODE(2, 8, solver="rk4", dt=0.2), shooting(slopes=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert fitting.fit(model, samples, fitting.measure(model, samples), Silent()) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_fit_that_diverges_says_so():
    samples = sample(linear.SYSTEM, 4, 20, spans=1, seed=0)
    model = Turning()
    fitting = shooting(slopes=0, lengths=(5,), iterations=2)
    smooth = fitting.measure(model, samples)
    with torch.no_grad():
        model.matrix.fill_(1e38)
    with pytest.raises(TrainingError, match="shorten the first stretch"):
        fitting.fit(model, samples, smooth, Silent())


def test_derivatives_of_a_field_and_of_its_solutions_are_those_of_autograd():
    torch.manual_seed(0)
    field = WeighedField(NeuralODE(2, 4))
    starts = torch.randn(3, 2, dtype=torch.float64)
    times = torch.tensor([0.0, 0.25, 0.6], dtype=torch.float64)
    flow = Flow(field, times, "rk4", 0.1)
    found = flow.derivatives(field.weights, starts)

    def solved(weights, starts):
        return ode_core.solve(lambda t, y: field(weights, y), starts, times, solver="rk4", dt=0.1)

    by_weight, by_start = torch.autograd.functional.jacobian(
        lambda w, y: solved(w, y).ys, (field.weights, starts)
    )
    assert torch.allclose(found[..., 0], flow(field.weights, starts), atol=1e-12)
    own = torch.stack([by_start[:, i, :, i] for i in range(3)], dim=1)
    assert torch.allclose(found[..., 1:3], own, atol=1e-12)
    assert torch.allclose(found[..., 3:], by_weight, atol=1e-12)


def test_eliminating_the_starts_is_solving_for_all_at_once():
    samples = noisy(sample(linear.SYSTEM, 3, 8, spans=1, seed=0), 0.05, seed=1)
    field = WeighedField(Turning())
    weights = field.weights + 0.1
    cut = _cut(samples.states.double(), samples.times, 4)
    problem, starts = _Stretches(field, cut, "rk4", 0.1), cut.observed[0]
    normal = problem.normal(weights, starts)
    step = -torch.linalg.solve(normal.matrix, normal.vector)

    def residuals(weights, starts):
        flow = problem.parts[0][0]
        solved = ode_core.solve(
            lambda t, y: field(weights, y), starts, flow.times, solver="rk4", dt=0.1
        )
        return solved.ys - cut.observed

    both = torch.autograd.functional.jacobian(residuals, (weights, starts))
    jacobian = torch.cat([part.reshape(cut.observed.numel(), -1) for part in both], dim=1)
    rows = problem.residuals(weights, starts).flatten()
    whole = -torch.linalg.lstsq(jacobian, rows[:, None]).solution[:, 0]
    assert torch.allclose(step, whole[: len(step)], atol=1e-9)
    assert torch.allclose(normal.others(step).flatten(), whole[len(step) :], atol=1e-9)


def test_differences_of_an_order_leave_lower_powers_alone():
    states = sample(linear.SYSTEM, 10, 60, spans=1, seed=0).states.flatten(0, 1).double()
    for power in (1, 2, 3):
        field = WeighedField(Power(power))
        sums = [float(r.square().sum()) for r in Differences(field, states, states.std(0))(
            field.weights
        )]  # fmt: skip
        for order, total in zip(ORDERS, sums, strict=True):
            assert (total < 1e-18) == (power < order)


def test_a_second_difference_is_a_second_derivative():
    states = sample(linear.SYSTEM, 10, 60, spans=1, seed=0).states.flatten(0, 1).double()
    field = WeighedField(Power(2))
    rows = Differences(field, states, torch.ones(2))(field.weights)[0].unflatten(0, (-1, 2))
    # y² along the way u has the second derivative 2 (u std)², and the squares of u sum to 1.
    ways = rows * 500**0.5 / (2 * states.std(0) ** 2)
    assert torch.allclose(ways.sum(1), torch.ones(500, dtype=torch.float64), atol=1e-9)


class Line:
    """Weights seen one by one, with noise."""

    def __init__(self, seen):
        self.seen, self.freedom = seen, seen.numel()

    def residuals(self, weights, others):
        return weights - self.seen

    def normal(self, weights, others):
        count = len(self.seen)
        matrix = count * torch.eye(len(weights), dtype=torch.float64)
        return Normal(matrix, (weights - self.seen).sum(0), lambda _: others)


class Zero:
    """A prior of each order that holds the weights near 0."""

    def __call__(self, weights):
        return [weights for _ in ORDERS]

    def linear(self, weights):
        return [(torch.eye(len(weights)).to(weights), weights) for _ in ORDERS]


def test_noise_and_the_strength_of_the_prior_are_learned():
    torch.manual_seed(0)
    true = 0.5 * torch.randn(400, dtype=torch.float64)
    problem = Line(true + 0.2 * torch.randn(10, 400, dtype=torch.float64))
    fit = Fit.begin(torch.zeros(400).double(), torch.zeros(()).double(), precision=1.0)
    fit = minimise(problem, Zero(), fit, 40, learn=True)
    assert fit.precision**-0.5 == pytest.approx(0.2, rel=0.05)
    assert float(fit.strengths.sum()) ** -0.5 == pytest.approx(0.5, rel=0.1)


def test_a_strength_changes_by_a_factor_of_three_at_most():
    strengths = first_strengths(torch.zeros(1).double())
    traces = [torch.tensor(1e9).double()] * 5, [torch.tensor(0.0).double()] * 5
    for sign, factor in ((1, 3.0), (-1, 1 / 3)):
        before, after = traces[::sign]
        renewed = next_strengths(strengths, torch.ones(5).double(), before, after)
        within = (renewed > 1e-2) & (renewed < 1e4)
        assert torch.allclose((renewed / strengths)[within], torch.tensor(factor).double())
