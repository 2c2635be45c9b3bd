"""GRU and latent ODE: irregular times, padding that says nothing, and the evidence lower bound."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import ArgumentError
from ode_models import Forecast
from ode_models.forecast import LEAST_STD, LinearPath, check_horizons, features, ordered
from ode_models.latent import Posterior
from tests.problems import FOR_MANY, solved_for

HORIZONS = (0.25, 0.5, 1.0)
FORECASTERS = [n for n, r in ode_core.models.items() if r.fits == "forecasting"]


def made(name, **options):
    torch.manual_seed(0)
    if ode_core.models[name].solves:
        options = {"solver": "rk4", "dt": 0.5} | options
    model = ode_core.models.create(name, horizons=HORIZONS, width=8, **options)
    # Leave the starting point, at which the network says nothing.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def readings(rows=3, length=12):
    generator = torch.Generator().manual_seed(1)
    gaps = torch.rand(rows, length, generator=generator) * 0.3 + 0.05
    times = -(gaps.flip(1).cumsum(1).flip(1) - gaps[:, -1:])
    values = torch.randn(rows, length, generator=generator).cumsum(1) * 0.2
    return times, values, torch.ones(rows, length, dtype=torch.bool)


def test_the_registry_yields_both():
    assert {"gru", "latent_ode"} <= set(FORECASTERS)


@pytest.mark.parametrize("name", FORECASTERS)
def test_shapes_and_gradients_of_every_parameter(name):
    model = made(name).train()
    forecast = model(*readings())
    assert forecast.mean.shape == forecast.std.shape == (3, 3)
    assert forecast.penalty.dim() == 0
    assert bool((forecast.std > 0).all())
    (forecast.mean.sum() + forecast.std.log().sum() + forecast.penalty).backward()
    for title, parameter in model.named_parameters():
        assert parameter.grad is not None, title
        assert torch.isfinite(parameter.grad).all(), title


@pytest.mark.parametrize("name", FORECASTERS)
def test_padding_anywhere_changes_nothing(name):
    model = made(name)
    times, values, mask = readings()
    plain = model(times, values, mask)
    where = [0, 3, 3, 8, 12, 12]
    index = sorted(list(range(12)) + where)
    keep, seen = [], set()
    for position in index:
        keep.append(position not in seen and position < 12)
        seen.add(position)
    source = torch.tensor([min(position, 11) for position in index])
    padded = torch.tensor(keep)
    for rubbish in (0.0, 99.0, -7.0):
        t = torch.where(padded, times[:, source], rubbish)
        v = torch.where(padded, values[:, source], rubbish)
        again = model(t, v, padded.expand(3, -1))
        for a, b in zip(plain, again, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", FORECASTERS)
def test_rows_do_not_see_each_other(name):
    model = made(name, **({"dt": 0.25} if ode_core.models[name].solves else {}))
    whole = model(*readings())
    turned = model(*(part.flip(0) for part in readings()))
    alone = model(*(part[:1] for part in readings()))
    assert torch.allclose(whole.mean.flip(0), turned.mean, atol=1e-6)
    assert torch.allclose(whole.mean[:1], alone.mean, atol=1e-6)
    assert torch.allclose(whole.std[:1], alone.std, atol=1e-6)


@pytest.mark.parametrize("name", FORECASTERS)
def test_an_untrained_model_forecasts_the_last_value(name):
    options = {"solver": "rk4", "dt": 0.5} if ode_core.models[name].solves else {}
    model = ode_core.models.create(name, horizons=HORIZONS, width=8, **options).eval()
    times, values, mask = readings()
    mask = mask.clone()
    mask[1, -3:] = False
    last = torch.stack([values[0, -1], values[1, -4], values[2, -1]])
    assert torch.allclose(model(times, values, mask).mean, last[:, None].expand(-1, 3))


@pytest.mark.parametrize("name", FORECASTERS)
def test_without_the_linear_path_there_are_fewer_parameters_and_another_forecast(name):
    with_path, without = made(name), made(name, linear=False)
    count = lambda model: sum(p.numel() for p in model.parameters())
    assert count(with_path) > count(without)
    assert not torch.allclose(with_path(*readings()).mean, without(*readings()).mean)


@pytest.mark.parametrize("horizons", [(), (0.0, 1.0), (1.0, 0.5), (0.5, 0.5)])
def test_horizons_that_make_no_sense_are_refused(horizons):
    with pytest.raises(ArgumentError, match="hours above 0, rising"):
        check_horizons(horizons)


def test_a_row_without_readings_is_refused():
    times, values, mask = readings()
    mask = mask.clone()
    mask[1] = False
    with pytest.raises(ArgumentError, match="needs a reading"):
        ordered(times, values, mask, newest_first=True)


@pytest.mark.parametrize(("part", "value"), [(0, 0.1), (0, math.nan), (1, math.nan), (1, math.inf)])
def test_a_reading_that_cannot_be_used_is_refused_unless_it_is_masked(part, value):
    given = [x.clone() for x in readings()]
    given[part][1, 4] = value
    with pytest.raises(ArgumentError, match="set the mask to False"):
        ordered(*given, newest_first=False)
    given[2][1, 4] = False
    found = ordered(*given, newest_first=False)
    assert bool(torch.isfinite(found.values).all() & torch.isfinite(found.times).all())


@pytest.mark.parametrize("name", FORECASTERS)
def test_times_may_be_of_another_precision_than_values(name):
    times, values, mask = readings()
    model = made(name)
    assert torch.allclose(model(times.double(), values, mask).mean, model(times, values, mask).mean)


@pytest.mark.parametrize("name", FORECASTERS)
def test_the_order_of_entries_says_nothing_and_their_times_do(name):
    model = made(name)
    times, values, mask = readings()
    order = torch.randperm(12)
    turned = model(times[:, order], values[:, order], mask)
    assert torch.allclose(model(times, values, mask).mean, turned.mean, atol=1e-6)
    assert not torch.allclose(
        model(times, values, mask).mean, model(0.7 * times, values, mask).mean
    )


def test_a_networks_inputs_are_relative_to_the_last_reading():
    times, values, mask = readings()
    mask = mask.clone()
    mask[0, :5] = False
    newest = ordered(times, values, mask, newest_first=True)
    inputs = features(newest, newest.values[:, :1])
    raised = newest._replace(values=torch.where(newest.mask, newest.values + 3.0, 0.0))
    assert torch.allclose(inputs, features(raised, raised.values[:, :1]), atol=1e-5)
    assert bool((inputs[0, 7:] == 0).all())
    change = 4 * (values[0, -2] - values[0, -1])
    gap = 12 * (times[0, -1] - times[0, -2]) - 1
    expected = torch.stack([values[0, -2] - values[0, -1], change, gap, times[0, -2]])
    assert torch.allclose(inputs[0, 1], expected, atol=1e-6)


def test_the_linear_path_extrapolates_a_line_when_its_weights_say_so():
    path = LinearPath(1)
    with torch.no_grad():
        path.changes[0] = 1.5  # of four times the change over the last five minutes: six times it
    times = torch.tensor([[0.0, -1 / 12, -2 / 12]])
    values = torch.tensor([[3.0, 2.5, 2.0]])
    found = path(ordered(times, values, torch.ones(1, 3, dtype=torch.bool), newest_first=True))
    assert found.item() == pytest.approx(3.0 + 6.0 * 0.5, abs=1e-4)


def test_the_divergence_is_the_closed_form():
    found = Posterior(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.8, 2.0]])).divergence()
    terms = [0.5 * (m * m + s * s - 1) - math.log(s) for m, s in ((0.5, 0.8), (-1.0, 2.0))]
    assert found.item() == pytest.approx(sum(terms))
    assert Posterior(torch.zeros(1, 4), torch.ones(1, 4)).divergence().item() == 0.0


def test_the_latent_start_is_drawn_in_training_only():
    model = made("latent_ode")
    quiet = [model(*readings()).mean for _ in range(2)]
    assert torch.equal(*quiet)
    model.train()
    noisy = [model(*readings()).mean for _ in range(2)]
    assert not torch.allclose(*noisy)


def test_the_penalty_weighs_reconstruction_and_divergence():
    model = made("latent_ode")
    model.divergence = 0.5
    both = model(*readings()).penalty.item()
    model.divergence = 0.0
    rest = model(*readings()).penalty.item()
    newest = ordered(*readings(), newest_first=True)
    divergence = model.recognise(newest).divergence().mean().item()
    assert both - rest == pytest.approx(0.5 * divergence, rel=1e-3)
    model.reconstruction = 0.0
    assert model(*readings()).penalty.item() == 0.0


def test_the_reconstruction_is_the_likelihood_of_the_readings_of_the_window():
    model = made("latent_ode")
    model.divergence, model.reconstruction = 0.0, 1.0
    _, values, mask = readings()
    times = torch.linspace(-2.75, 0.0, 12).expand(3, 12)  # on the grid: nothing is interpolated
    mask = mask.clone()
    mask[0, :4] = False
    penalty = model(times, values, mask).penalty.item()
    path = model.block(model.recognise(ordered(times, values, mask, newest_first=True)).mean)
    rows = []
    for row in range(3):
        terms = []
        for t, v, seen in zip(times[row], values[row], mask[row], strict=True):
            if seen:
                node = model.block.t.index(t.item())
                mean, _, spread = model.decoder(path[node, row])
                std = torch.nn.functional.softplus(spread) + LEAST_STD
                normal = torch.distributions.Normal(mean, std)
                terms.append(-normal.log_prob(v - values[row, -1]) - 0.5 * math.log(2 * math.pi))
        rows.append(sum(terms) / len(terms))
    assert penalty == pytest.approx(float(sum(rows).detach() / 3), rel=1e-4)


@pytest.mark.parametrize("linear", [True, False])
def test_a_latent_ode_that_stands_still_forecasts_what_it_starts_from(linear):
    model = made("latent_ode", linear=linear)
    newest = ordered(*readings(), newest_first=True)
    start = model.linear(newest) if linear else newest.values[:, :1].expand(-1, 3)
    assert not torch.allclose(model(*readings()).mean, start)
    with torch.no_grad():
        for parameter in model.block.field.parameters():
            parameter.zero_()
    assert torch.allclose(model(*readings()).mean, start, atol=1e-6)


def test_the_latent_path_is_read_at_each_readings_own_time():
    model = made("latent_ode")
    grid = model.grid
    path = grid[:, None, None].expand(-1, 3, 2).contiguous()
    times = readings()[0]
    assert torch.allclose(model._at(path, times)[..., 0], times.clamp(-4.0, 1.0), atol=1e-5)


@pytest.mark.parametrize("gradient", FOR_MANY)
def test_the_latent_ode_learns_with_every_gradient(gradient):
    torch.manual_seed(0)
    model = ode_core.models.create(
        "latent_ode", horizons=HORIZONS, width=8, gradient=gradient, **solved_for(gradient, 0.25)
    )
    t, v, m = readings(16)
    target = v[:, -1:] + (v[:, -1:] - v[:, -2:-1]) * torch.tensor(HORIZONS)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(25):
        forecast: Forecast = model(t, v, m)
        off = (target - forecast.mean) / forecast.std
        loss = (0.5 * off.square() + forecast.std.log()).mean() + forecast.penalty
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
