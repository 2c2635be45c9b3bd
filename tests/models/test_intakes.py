"""Meals and insulin as inputs of the forecasters, and the ODE-RNN that flows between readings."""

from __future__ import annotations

import pytest
import torch

import ode_core
from ode_core import ArgumentError
from ode_models.forecast import features, ordered
from ode_models.intakes import Absorption, Intakes

HORIZONS = (0.25, 0.5, 1.0)
FORECASTERS = [n for n, r in ode_core.models.items() if r.fits == "forecasting"]


def made(name, **options):
    torch.manual_seed(0)
    if ode_core.models[name].solves:
        options = {"solver": "rk4", "dt": 0.5} | options
    model = ode_core.models.create(name, horizons=HORIZONS, width=8, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def readings(rows=3, length=6):
    generator = torch.Generator().manual_seed(1)
    gaps = torch.rand(rows, length, generator=generator) * 0.3 + 0.05
    times = -(gaps.flip(1).cumsum(1).flip(1) - gaps[:, -1:])
    values = torch.randn(rows, length, generator=generator).cumsum(1) * 0.2
    return times, values, torch.ones(rows, length, dtype=torch.bool)


TIMES = torch.tensor([[-2.0, -0.5], [-1.0, 0.0], [-3.0, -0.1]])
AMOUNTS = torch.tensor([[[1.0, 0], [0, 2]], [[0, 1], [1, 0]], [[2, 0], [0, 1]]])


def test_all_of_an_intake_appears_and_nothing_before_it():
    absorption = Absorption(2)
    grid = torch.linspace(-4, 12, 3201).expand(3, -1)
    u = absorption(grid, Intakes(TIMES, AMOUNTS)).detach()
    assert torch.allclose(torch.trapezoid(u, grid[0], dim=1), AMOUNTS.sum(1), atol=1e-3)
    assert bool((u[0, grid[0] <= -2.0] == 0).all())
    assert bool((u[0, (grid[0] > -1.9) & (grid[0] < 0), 0] > 0).all())
    highest = grid[0, u[0, :, 0].argmax()].item()
    assert highest == pytest.approx(-2.0 + 0.75, abs=0.01)


@pytest.mark.parametrize("name", FORECASTERS)
def test_an_intake_changes_its_rows_forecast_only_and_nothing_changes_none(name):
    model = made(name, controls=2)
    plain = model(*readings(), TIMES, AMOUNTS).mean
    padded_times = torch.cat((torch.zeros(3, 2), TIMES), 1)
    padded = torch.cat((torch.zeros(3, 2, 2), AMOUNTS), 1)
    assert torch.allclose(model(*readings(), padded_times, padded).mean, plain, atol=1e-6)
    more = AMOUNTS.clone()
    more[1] *= 3
    changed = (model(*readings(), TIMES, more).mean - plain).abs().amax(1) > 1e-5
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("name", FORECASTERS)
def test_every_parameter_learns_from_intakes(name):
    model = made(name, controls=2).train()
    forecast = model(*readings(), TIMES, AMOUNTS)
    (forecast.mean.sum() + forecast.std.log().sum() + forecast.penalty).backward()
    for title, parameter in model.named_parameters():
        assert parameter.grad is not None, title
        assert float(parameter.grad.abs().sum()) > 0, title


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_model_is_given_the_intakes_that_it_was_made_for(name):
    with pytest.raises(ArgumentError, match="controls=2 kinds of intake, and is given 0"):
        made(name, controls=2)(*readings())
    with pytest.raises(ArgumentError, match="controls=0 kinds of intake, and is given 2"):
        made(name)(*readings(), TIMES, AMOUNTS)


def test_the_ode_rnn_is_the_recurrent_cell_where_its_field_is_nought():
    model = made("ode_rnn")
    with torch.no_grad():
        for parameter in model.block.field.parameters():
            parameter.zero_()
    given = ordered(*readings(), newest_first=False)
    inputs = features(given, given.values[:, -1:])
    hidden = torch.zeros(3, 8)
    for place in range(6):
        hidden = model.cell(inputs[:, place], hidden)
    rise = model.head(torch.cat((hidden, given.values[:, -1:]), 1))[:, 0]
    newest = ordered(*readings(), newest_first=True)
    expected = model.linear(newest) + rise[:, None]
    assert torch.allclose(model(*readings()).mean, expected, atol=1e-6)


def test_the_ode_rnn_decays_by_the_hours_that_pass():
    model = made("ode_rnn", dt=0.1)
    layer = model.block.field.layers
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer[2].bias.fill_(-0.5)  # dh/dt, an hour
    gap = torch.tensor([0.0, 0.5, 2.0])
    moved = model._flow(torch.ones(3, 8), torch.zeros(3), gap, [])
    assert torch.allclose(moved, (1 - 0.5 * gap)[:, None].expand(-1, 8), atol=1e-6)


def test_the_cost_of_the_ode_rnn_is_that_of_all_its_ways():
    model = made("ode_rnn", solver="midpoint", dt=1.0)
    model(*readings())
    assert model.block.stats.f_calls == 2 * (5 + 3)
    adjoint = made("ode_rnn", solver="midpoint", dt=1.0, gradient="adjoint").train()
    adjoint(*readings()).mean.sum().backward()
    assert adjoint.block.stats.backward_f_calls >= 2 * (5 + 3)


def test_the_control_without_an_ode_still_tells_the_horizons_apart():
    model = made("latent_still")
    newest = ordered(*readings(), newest_first=True)
    rise = (model(*readings()).mean - model.linear(newest)).detach()
    assert rise.std(dim=1).min() > 1e-4
    start = model.recognise(newest).mean
    path = model.path(start, None)
    assert torch.equal(path[0, :, :-1], path[-1, :, :-1])
    assert torch.equal(path[:, 0, -1], model.grid)
