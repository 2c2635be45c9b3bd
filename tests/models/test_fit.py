"""Known equations, unknown parameters: what SciPy finds, and what single shooting does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from ode_core import ArgumentError, solve
from ode_models import fit
from ode_models.fitting.readings import as_readings, cut
from ode_models.fitting.sensitivities import Equations
from ode_models.fitting.shooting import Shooting, Unknowns
from ode_models.fitting.student import half_width

F64 = torch.float64
RK4 = {"solver": "rk4", "dt": 0.25}


def predation(t, y, p):
    x, z = y
    return torch.stack([p["a"] * x - p["b"] * x * z, p["c"] * x * z - p["d"] * z])


def lorenz(t, y, p):
    x, y, z = y
    return torch.stack([p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z])


def growth(t, y, p):
    """Logistic growth, whose solution is known."""
    return p["rate"] * y * (1.0 - y / p["most"])


def grown(t, start, rate, most):
    return most / (1.0 + (most / start - 1.0) * np.exp(-rate * t))


RATES = {"a": 1.0, "b": 0.5, "c": 0.25, "d": 0.75}
WRONG = {"a": 0.7, "b": 0.7, "c": 0.3, "d": 0.5}


def sampled(f, p, y0, t, noise, seed=0):
    y0 = torch.tensor(y0, dtype=F64)
    states = solve(lambda t, y: f(t, y, p), y0, t, rtol=1e-10, atol=1e-10).ys
    chance = torch.Generator().manual_seed(seed)
    return states + noise * torch.randn(states.shape, generator=chance, dtype=F64)


def grown_data(count=30, noise=0.05, seed=0):
    t = np.linspace(0.0, 6.0, count)
    rng = np.random.default_rng(seed)
    return t, grown(t, 0.2, 1.3, 2.0) + noise * rng.standard_normal(count)


def test_predators_and_prey_by_multiple_shooting_where_single_shooting_is_lost():
    t = torch.linspace(0.0, 16.0, 41, dtype=F64)
    data = sampled(predation, RATES, [2.0, 1.0], t, 0.1)
    many = fit(predation, WRONG, t, data, stretches=8, solver="rk4", dt=0.2)
    assert many.converged
    assert many.gap < 1e-6
    for name, true in RATES.items():
        error = float(many.standard_errors[name])
        assert abs(float(many.parameters[name]) - true) < 3.5 * error
        assert error < 0.05
    # What is left is the noise, and the joined stretches are one solution.
    assert 0.07 < math.sqrt(2.0 * many.cost / many.freedom) < 0.13
    whole = solve(lambda t, y: predation(t, y, many.parameters), many.y0, t, solver="rk4", dt=0.2)
    assert torch.allclose(whole.ys, many.states, atol=1e-5)
    single = fit(predation, WRONG, t, data, solver="rk4", dt=0.2, max_iterations=6)
    assert single.cost > 20.0 * many.cost


def test_a_chaotic_system_by_multiple_shooting_where_single_shooting_is_lost():
    t = torch.linspace(0.0, 4.0, 81, dtype=F64)
    true = torch.tensor([10.0, 28.0, 8.0 / 3.0], dtype=F64)
    data = sampled(lorenz, true, [-5.0, -6.0, 22.0], t, 0.5)
    start, steps = torch.tensor([5.0, 20.0, 1.0]), {"solver": "rk4", "dt": 0.025}
    many = fit(lorenz, start, t, data, stretches=20, **steps)
    assert many.converged
    assert bool(((many.parameters - true).abs() < 3.5 * many.standard_errors).all())
    assert bool((many.standard_errors < 0.02 * true).all())
    single = fit(lorenz, start, t, data, max_iterations=5, **steps)
    assert not single.converged
    assert single.cost > 50.0 * many.cost


def test_estimates_and_covariance_are_those_of_scipy():
    t, data = grown_data()
    wanted, spread = scipy.optimize.curve_fit(grown, t, data, [0.3, 1.0, 1.5], xtol=1e-12)
    got = fit(growth, {"rate": 1.0, "most": 1.5}, t, data[:, None], y0=[0.3])
    values = [float(got.y0), float(got.parameters["rate"]), float(got.parameters["most"])]
    assert values == pytest.approx(wanted, rel=1e-5)
    assert got.covariance.numpy() == pytest.approx(spread[1:, 1:], rel=1e-4)
    assert float(got.y0_standard_errors) == pytest.approx(math.sqrt(spread[0, 0]), rel=1e-4)
    assert got.freedom == 27
    assert float(got.correlation[0, 1]) == pytest.approx(
        spread[1, 2] / math.sqrt(spread[1, 1] * spread[2, 2]), rel=1e-4
    )
    low, high = got.interval(0.9)
    half = scipy.stats.t.ppf(0.95, 27) * math.sqrt(spread[1, 1])
    assert float(high["rate"] - low["rate"]) == pytest.approx(2 * half, rel=1e-4)


def test_a_known_sigma_is_taken_as_it_is_and_an_unknown_one_by_its_proportions():
    t, data = grown_data()
    sigma = np.where(t < 3.0, 0.05, 0.1)
    for absolute in (False, True):
        _, spread = scipy.optimize.curve_fit(
            grown, t, data, [0.3, 1.0, 1.5], sigma=sigma, absolute_sigma=absolute
        )
        got = fit(growth, {"rate": 1.0, "most": 1.5}, t, data[:, None], y0=[0.3],
                  sigma=sigma[:, None], absolute_sigma=absolute, **RK4)  # fmt: skip
        assert got.covariance.numpy() == pytest.approx(spread[1:, 1:], rel=1e-3)


@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy"])
def test_a_robust_loss_finds_what_scipy_finds_and_ignores_outliers(loss):
    t, data = grown_data()
    data[[5, 17]] += 3.0
    wanted = scipy.optimize.least_squares(
        lambda x: grown(t, *x) - data, [0.3, 1.0, 1.5], loss=loss, f_scale=0.1, xtol=1e-12
    )
    got = fit(growth, {"rate": 1.0, "most": 1.5}, t, data[:, None], y0=[0.3], loss=loss,
              f_scale=0.1, **RK4)  # fmt: skip
    values = [float(got.y0), float(got.parameters["rate"]), float(got.parameters["most"])]
    assert values == pytest.approx(wanted.x, rel=1e-3)
    assert got.cost == pytest.approx(wanted.cost, rel=1e-4)
    plain = fit(growth, {"rate": 1.0, "most": 1.5}, t, data[:, None], y0=[0.3], **RK4)
    assert abs(float(got.parameters["most"]) - 2.0) < abs(float(plain.parameters["most"]) - 2.0)
    # Two outliers of sixty sigma are no reason to be uncertain.
    assert float(got.standard_errors["most"]) < 0.5 * float(plain.standard_errors["most"])


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    t = torch.linspace(0.0, 6.0, 9, dtype=F64)
    clean = torch.from_numpy(grown(t.numpy(), 0.2, 1.3, 2.0))
    chance = torch.Generator().manual_seed(3)
    data = clean + 0.05 * torch.randn(50, 9, generator=chance, dtype=F64)
    true = torch.tensor([1.3, 2.0], dtype=F64)
    covered, errors, found = torch.zeros(2), [], []
    for row in data:
        got = fit(growth, {"rate": 1.3, "most": 2.0}, t, row[:, None], y0=[0.2], solver="rk4",
                  dt=0.75)  # fmt: skip
        low, high = (torch.stack(list(end.values())) for end in got.interval(0.9))
        covered += (low <= true) & (true <= high)
        errors.append(got.covariance.diagonal().sqrt())
        found.append(got.estimates)
    # 45 of 50, within three standard deviations of a binomial count.
    assert bool(((covered >= 39) & (covered <= 50)).all()), covered
    assert torch.allclose(torch.stack(errors).mean(0), torch.stack(found).std(0), rtol=0.3)
    # Intervals of half the width would cover 6 of 10.
    half = torch.stack(found).sub(true).abs() <= 0.5 * 1.94 * torch.stack(errors)
    assert bool((half.sum(0) < 39).all())


def test_a_parameter_on_a_bound_counts_as_known():
    t, data = grown_data()
    within = ({"rate": 0.0, "most": 0.0}, {"rate": 1.0, "most": 5.0})
    got = fit(growth, {"rate": 0.9, "most": 1.5}, t, data[:, None], y0=[0.3], bounds=within, **RK4)
    assert float(got.parameters["rate"]) == 1.0
    assert math.isnan(float(got.standard_errors["rate"]))
    wanted = scipy.optimize.curve_fit(lambda t, y0, m: grown(t, y0, 1.0, m), t, data, [0.3, 1.5])
    assert float(got.parameters["most"]) == pytest.approx(wanted[0][1], rel=1e-3)
    assert float(got.standard_errors["most"]) == pytest.approx(wanted[1][1, 1] ** 0.5, rel=1e-2)


def test_what_the_data_say_nothing_of_has_no_finite_error():
    t, data = grown_data()
    got = fit(lambda t, y, p: p[0] * p[1] * y * (1.0 - y / p[2]), [1.0, 1.0, 1.5], t,
              data[:, None], y0=[0.3], **RK4)  # fmt: skip
    errors = [float(error) for error in got.standard_errors]
    assert errors[:2] == [math.inf, math.inf]
    assert errors[2] < 0.1


def test_trajectories_share_parameters_and_a_state_may_be_seen_in_part():
    t = torch.linspace(0.0, 8.0, 33, dtype=F64)
    both = torch.stack([sampled(predation, RATES, start, t, 0.02, seed)
                        for seed, start in enumerate(([2.0, 1.0], [3.0, 2.0]))])  # fmt: skip
    prey = both[:, :, :1].clone()
    prey[0, 3:7] = math.nan
    got = fit(predation, {"a": 0.9, "b": 0.6, "c": 0.3, "d": 0.8}, t, prey, y0=both[:, 0],
              observe=lambda t, y, p: y[:1], stretches=4, **RK4)  # fmt: skip
    assert got.converged
    assert got.y0.shape == (2, 2)
    assert got.states.shape == (2, 33, 2)
    assert torch.equal(got.residuals.isnan(), prey.isnan())
    assert got.freedom == 66 - 4 - 8
    for name, true in RATES.items():
        assert abs(float(got.parameters[name]) - true) < 4.0 * float(got.standard_errors[name])


def test_a_start_that_is_known_is_kept():
    t, data = grown_data()
    got = fit(growth, {"rate": 1.0, "most": 1.5}, t, data[:, None], y0=[0.25], fixed_y0=True,
              stretches=3, **RK4)  # fmt: skip
    assert float(got.y0) == 0.25
    assert got.freedom == 28
    wanted, spread = scipy.optimize.curve_fit(lambda t, r, m: grown(t, 0.25, r, m), t, data)
    assert float(got.parameters["rate"]) == pytest.approx(wanted[0], rel=1e-3)
    assert got.covariance.numpy() == pytest.approx(spread, rel=1e-2)


@pytest.mark.parametrize(("solver", "stretches"), [("dopri5", 1), ("kvaerno5", 3)])
def test_the_jacobian_is_the_derivative_of_the_residuals(stretches, solver):
    t = torch.linspace(0.0, 2.0, 7, dtype=F64)
    data = sampled(predation, RATES, [2.0, 1.0], t, 0.1)
    names = list(RATES)
    known = torch.tensor([0.9, 0.6, 0.3, 0.8], dtype=F64)
    equations = Equations(predation, None, lambda v: dict(zip(names, v, strict=True)), known,
                          {"solver": solver, "rtol": 1e-7, "atol": 1e-9})  # fmt: skip
    readings = as_readings(t, data, 0.5)
    pieces = cut(readings, stretches)
    shape = Unknowns(data[pieces.places[:, 0]], torch.ones(4, dtype=F64))
    shooting = Shooting(equations, readings, pieces, shape, torch.tensor([2.0, 3.0], dtype=F64))
    x, small = shape.flat(), 1e-3
    at = shooting.linearise(x)
    for place in range(len(x)):
        step = torch.zeros_like(x)
        step[place] = small
        up, down = shooting.linearise(x + step), shooting.linearise(x - step)
        slope = (up.residuals - down.residuals) / (2 * small)
        assert torch.allclose(at.jacobian[:, place], slope, rtol=1e-3, atol=1e-3)
        slope = (up.conditions - down.conditions) / (2 * small)
        assert torch.allclose(at.slopes[:, place], slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("freedom", [1, 2, 5, 27, 1000])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_students_quantiles_are_those_of_scipy(level, freedom):
    wanted = scipy.stats.t.ppf(0.5 + level / 2, freedom)
    assert half_width(level, freedom) == pytest.approx(wanted, rel=1e-7)


WRONG_USES = [
    ({"data": [[1.0], [2.0]]}, "data is [T, M]"),
    ({"t": [0.0, 0.0, 1.0]}, "strictly rising"),
    ({"data": [[math.nan], [math.nan], [math.nan]]}, "NaN where one is missing"),
    ({"sigma": 0.0}, "is above 0"),
    ({"sigma": [1.0, 2.0]}, "broadcasts to the data"),
    ({"stretches": 3}, "stretches is from 1 to 2"),
    ({"loss": "l1"}, "loss is one of linear, huber, soft_l1, cauchy"),
    ({"f_scale": 0.0}, "f_scale is a number above 0"),
    ({"bounds": (0.0, 0.5)}, "within the bounds"),
    ({"bounds": ({"r": 0.0}, 2.0)}, "structures like parameters"),
    ({"parameters": {"rate": "fast", "most": 1.0}}, "parameters is a number"),
    ({"observe": lambda t, y, p: y}, "give y0, or guess"),
    ({"y0": [1.0, 2.0]}, "y0 has 2 numbers"),
    ({"guess": [[1.0], [2.0]]}, "guess is [T, n]"),
    ({"f": lambda t, y, p: y[:0]}, "f returns [1]"),
    ({"f": lambda t, y, p: y * float(y)}, "torch.vmap and torch.func.jvp"),
    ({"f": lambda t, y, p: 50.0 * y**3, "solver": "rk4", "dt": 0.1}, "shorter stretches"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), WRONG_USES, ids=[w[1] for w in WRONG_USES])
def test_what_does_not_go_together_is_one_sentence(changes, words):
    asked = {"f": growth, "parameters": {"rate": 1.0, "most": 2.0}, "t": [0.0, 1.0, 2.0],
             "data": [[1.0], [1.2], [1.4]]} | changes  # fmt: skip
    with pytest.raises(ArgumentError) as caught:
        fit(**asked)
    assert words in str(caught.value)
