"""ODEBlock: a solve as a layer, with its cost, that can be copied, saved and sent."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

import ode_core
from ode_core import ArgumentError
from ode_models import NeuralODE, ODEBlock
from ode_models.fields import ConvField, MLPField, TimeMLPField, groups
from tests.problems import F64, solved_for


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=F64))

    def forward(self, t, y):
        return -self.rate * y


def test_two_times_give_the_end_and_more_give_all():
    y0 = torch.ones(3, dtype=F64)
    end = ODEBlock(Decay(), t=(0.0, 2.0), rtol=1e-9, atol=1e-9)(y0)
    assert end.shape == (3,)
    assert end[0].item() == pytest.approx(math.exp(-2), rel=1e-7)
    assert ODEBlock(Decay(), t=(0.0, 1.0, 2.0))(y0).shape == (3, 3)
    back = ODEBlock(Decay(), t=(2.0, 0.0), rtol=1e-9, atol=1e-9)(end)
    assert torch.allclose(back, y0)


@pytest.mark.parametrize("gradient", ode_core.gradients)
def test_gradients_reach_the_field_and_stats_count(gradient):
    block = ODEBlock(Decay(), **solved_for(gradient), gradient=gradient)
    assert block.stats is None
    block(torch.ones(1, dtype=F64)).sum().backward()
    # reversible_heun is of order 2; interpolated spends two calls on the steps' polynomials.
    slack = 3e-2 if gradient == "reversible" else 1e-2
    assert block.field.rate.grad.item() == pytest.approx(-math.exp(-1), rel=slack)
    calls = {"interpolated": 10, "reversible": 3, "forward": 18}.get(gradient, 8)
    assert block.stats.f_calls == calls
    if gradient in ("direct", "symplectic", "checkpoint", "adjoint", "forward"):
        calls = {"direct": 0, "symplectic": 14, "forward": 0}.get(gradient, 8)
        assert block.stats.backward_f_calls == calls
    else:
        assert block.stats.backward_f_calls > 0


@pytest.mark.parametrize("t", [(0.0,), (0.0, 0.0), (0.0, 2.0, 1.0), (0.0, math.inf)])
def test_times_that_cannot_be_solved_over_are_refused(t):
    with pytest.raises(ArgumentError, match="two times or more"):
        ODEBlock(Decay(), t=t)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "rk4"}, "fixed steps: pass dt"),
        ({"solver": "rk4", "dt": 0.1, "rtol": 1e-3}, "no effect"),
        ({"solver": ode_core.solvers.create("euler")}, "fixed steps: pass dt"),
        ({"dt": 0.0}, "above 0"),
        ({"solver": "dopri55"}, "dopri5"),
        ({"gradient": "adjiont"}, "adjoint"),
    ],
)
def test_settings_that_no_solve_would_take_are_refused_where_they_are_written(options, words):
    with pytest.raises(ode_core.OdeError, match=words):
        ODEBlock(Decay(), **options)
    with pytest.raises(ode_core.OdeError, match=words):
        NeuralODE(2, 4, **options)


def test_a_class_in_place_of_a_field_is_refused():
    with pytest.raises(ArgumentError, match="field is a module or function"):
        ODEBlock(Decay)


def test_a_state_may_be_a_structure_of_tensors():
    def rotation(t, state):
        return {"q": state["p"], "p": -state["q"]}

    start = {"q": torch.ones(2, dtype=F64), "p": torch.zeros(2, dtype=F64)}
    end = ODEBlock(rotation, t=(0.0, 1.0), rtol=1e-9, atol=1e-9)(start)
    assert end["q"].shape == (2,)
    assert end["q"][0].item() == pytest.approx(math.cos(1), rel=1e-6)
    assert end["p"][0].item() == pytest.approx(-math.sin(1), rel=1e-6)
    assert ODEBlock(rotation, t=(0.0, 0.5, 1.0))(start)["p"].shape == (3, 2)


def test_only_a_field_that_sees_the_time_notices_when_the_times_are_shifted():
    y0 = torch.randn(3, 4)
    for field, same in ((MLPField(4, 8), True), (TimeMLPField(4, 8), False)):
        now = ODEBlock(field, t=(0.0, 1.0), solver="rk4", dt=0.25)(y0)
        later = ODEBlock(field, t=(2.0, 3.0), solver="rk4", dt=0.25)(y0)
        assert torch.allclose(now, later, atol=1e-6) is same


def test_it_can_be_copied_pickled_saved_and_loaded_weights_only():
    block = ODEBlock(Decay(), solver=ode_core.solvers.create("tsit5"), rtol=1e-6)
    y0 = torch.ones(2, dtype=F64)
    expected = block(y0)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(y0), expected)
    buffer = io.BytesIO()
    torch.save(block.state_dict(), buffer)
    buffer.seek(0)
    fresh = ODEBlock(Decay())
    with torch.no_grad():
        fresh.field.rate.fill_(7.0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert fresh.field.rate.item() == 1.0
    assert list(block.state_dict()) == ["field.rate"]


def test_it_says_what_it_is():
    assert "solver=rk4, gradient=adjoint, dt=0.5" in repr(
        ODEBlock(Decay(), solver="rk4", gradient="adjoint", dt=0.5)
    )


def test_fields_keep_shapes_and_see_the_time_or_not():
    y = torch.randn(2, 8, 5, 7)
    timed, blind = ConvField(8), ConvField(8, timed=False)
    early, late = torch.tensor(0.0), torch.tensor(0.9)
    assert timed(early, y).shape == y.shape
    assert not torch.allclose(timed(early, y), timed(late, y))
    assert torch.equal(blind(early, y), blind(late, y))
    mlp = MLPField(3, 16)
    assert mlp(early, torch.randn(4, 5, 3)).shape == (4, 5, 3)
    assert [groups(width) for width in (64, 48, 16, 7)] == [8, 4, 2, 1]


def test_per_sample_steps_are_each_samples_own():
    y0 = torch.tensor([[1.0], [30.0]], dtype=torch.float64)
    block = ODEBlock(lambda t, y: -(y**3), solver="tsit5", stepping="per_sample")
    together = block(y0)
    few, many = block.stats.f_calls.tolist()
    assert many > 2 * few
    assert torch.allclose(together[:1], block(y0[:1]), atol=1e-14)
    assert "stepping=per_sample" in repr(block)
    with pytest.raises(ArgumentError, match="stepping is 'shared' or 'per_sample'; got 'own'"):
        ODEBlock(lambda t, y: y, stepping="own")
