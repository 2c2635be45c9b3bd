"""A neural CDE: the equation by hand, its invariances, and what is missing."""

from __future__ import annotations

import math

import pytest
import torch

from ode_core import ArgumentError
from ode_models import GapGRU, NeuralCDE
from ode_models.gap_gru import held
from ode_models.gaps import across, counts
from tests.problems import F64

NAN = math.nan
TIGHT = {"rtol": 1e-8, "atol": 1e-8}


def series(rows=3, length=6, channels=2):
    chance = torch.Generator().manual_seed(0)
    times = torch.rand(rows, length, generator=chance, dtype=F64).sort(1).values
    return times, torch.randn(rows, length, channels, generator=chance, dtype=F64)


def cde(**options):
    torch.manual_seed(1)
    return NeuralCDE(2, 3, 5, **(TIGHT | options)).double().eval()


def test_gaps_are_crossed_in_a_straight_line_over_time():
    times = torch.tensor([[0.0, 1.0, 3.0, 4.0, 5.0]])
    values = torch.tensor([[[NAN, NAN], [1.0, NAN], [NAN, NAN], [7.0, NAN], [NAN, NAN]]])
    assert across(times, values)[0, :, 0].tolist() == [1.0, 1.0, 5.0, 7.0, 7.0]
    assert across(times, values)[0, :, 1].tolist() == [0.0] * 5
    assert counts(times, values)[0, :, 0].tolist() == pytest.approx([0.0, 0.2, 0.2, 0.4, 0.4])
    assert held(values)[0, :, 0].tolist() == [0.0, 1.0, 1.0, 7.0, 7.0]


def test_a_linear_path_gives_the_equation_that_can_be_solved_by_hand():
    # With g constant, z(1) = z(0) + g (X(1) - X(0)) whatever the path between.
    times, values = series()
    for kind in ("linear", "hermite", "cubic"):
        model = cde(interpolation=kind)
        with torch.no_grad():
            for layer in model.block.field.layers:
                if hasattr(layer, "weight"):
                    layer.weight.zero_()
        path = model.path(times, values)
        g = torch.tanh(model.block.field.layers[2].bias).view(5, 5)
        end = model.start(path[:, 0]) + (path[:, -1] - path[:, 0]) @ g.mT
        assert torch.allclose(model(times, values), model.head(end), atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "hermite", "cubic"])
def test_rows_are_their_own_and_end_where_their_times_do(kind):
    times, values = series()
    model = cde(interpolation=kind)
    together = model(times, values)
    for row in range(3):
        alone = model(times[row : row + 1], values[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-5)
    if kind != "cubic":  # which looks ahead, and at the padding too
        longer = torch.cat([times, times.new_full((3, 2), NAN)], 1)
        padded = torch.cat([values, values.new_full((3, 2, 2), 5.0)], 1)
        assert torch.allclose(model(longer, padded), model(times, values), atol=1e-5)


def test_what_is_missing_is_seen_and_changes_the_answer():
    times, values = series()
    lacking = values.clone()
    lacking[1, 2, 0] = NAN
    for model in (cde(), GapGRU(2, 3, 5).double()):
        whole, part = model(times, values), model(times, lacking)
        assert bool(part.isfinite().all())
        assert torch.allclose(whole[[0, 2]], part[[0, 2]], atol=1e-6)
        assert not torch.allclose(whole[1], part[1], atol=1e-6)


def test_a_gap_gru_ends_at_the_last_reading_of_a_row():
    times, values = series()
    model = GapGRU(2, 3, 5).double()
    longer = torch.cat([times, times.new_full((3, 2), NAN)], 1)
    padded = torch.cat([values, values.new_full((3, 2, 2), 5.0)], 1)
    assert torch.allclose(model(longer, padded), model(times, values))
    later = times.clone()
    later[:, 3:] += 1.0
    assert not torch.allclose(model(later, values), model(times, values))


def test_fixed_steps_go_from_reading_to_reading():
    times, values = series(length=9)
    model = cde(rtol=None, atol=None, solver="midpoint", dt=1.0)
    model(times, values)
    assert model.block.stats.accepted == 8


def test_what_does_not_go_together_is_one_sentence():
    with pytest.raises(ArgumentError, match="interpolation is one of hermite, cubic, linear"):
        cde(interpolation="hold")
    with pytest.raises(ArgumentError, match="L at least 2"):
        cde()(torch.zeros(2, 1), torch.zeros(2, 1, 2))
