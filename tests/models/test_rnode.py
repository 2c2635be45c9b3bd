"""The two regularisers against integrals by hand, and through every gradient method."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import ode_core
from ode_core import ArgumentError
from ode_models import RNODE, ODEBlock, ODENet
from ode_models.fields import TimeMLPField
from tests.problems import F64

MATRIX = torch.tensor([[0.5, 2.0], [-1.0, 0.25]], dtype=F64)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())

    def forward(self, t, y):
        return y @ self.matrix.mT


def block(kinetic, jacobian, field=None, **options):
    options = {"rtol": 1e-9, "atol": 1e-9} | options
    return ODEBlock(field or Linear(), regulariser=RNODE(kinetic, jacobian), **options)


def test_the_kinetic_energy_is_the_integral_of_the_mean_square_of_the_slope():
    y0 = torch.tensor([[1.0, 0.0], [0.5, -1.0]], dtype=F64)
    model = block(2.0, 0.0)
    model(y0)
    times = torch.linspace(0.0, 1.0, 2001, dtype=F64)
    states = torch.stack([y0 @ torch.linalg.matrix_exp(t * MATRIX).mT for t in times])
    slopes = (states @ MATRIX.mT).square().mean((1, 2))
    assert float(model.penalty.detach()) == pytest.approx(
        2.0 * float(torch.trapezoid(slopes, times)), 1e-6
    )


def test_the_jacobian_penalty_is_its_mean_square_over_many_draws():
    model = block(0.0, 3.0, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    model(torch.randn(20_000, 2, dtype=F64))
    # E |e^T A|^2 = |A|_F^2, and the mean is over two entries.
    wanted = 3.0 * float(MATRIX.square().sum()) / 2
    assert float(model.penalty.detach()) == pytest.approx(wanted, rel=0.03)


def test_in_evaluation_nothing_is_spent_on_it():
    model = block(1.0, 1.0).eval()
    model(torch.ones(2, 2, dtype=F64))
    assert model.penalty is None
    assert ODEBlock(Linear()).train()(torch.ones(2, 2, dtype=F64)) is not None


@pytest.mark.parametrize("gradient", [g for g in ode_core.gradients if g != "reversible"])
def test_its_gradient_is_the_same_by_every_method(gradient):
    def pulled(name):
        torch.manual_seed(1)
        field = TimeMLPField(2, 4).double()
        options = {"rtol": None, "atol": None, "solver": "rk4", "dt": 0.1, "gradient": name}
        model = block(0.5, 0.7, field, **options)
        torch.manual_seed(2)
        end = model(torch.linspace(-1.0, 1.0, 6, dtype=F64).view(3, 2))
        (end.square().mean() + model.penalty).backward()
        return [parameter.grad for parameter in field.parameters()]

    exact = pulled("direct")
    tolerance = 1e-9 if ode_core.gradients.create(gradient).exact else 1e-3
    for mine, wanted in zip(pulled(gradient), exact, strict=True):
        assert torch.allclose(mine, wanted, rtol=tolerance, atol=tolerance)


def test_a_block_with_a_penalty_can_be_copied_and_pickled_but_for_the_penalty():
    model = block(1.0, 1.0)
    model(torch.ones(2, 2, dtype=F64))
    assert model.penalty.requires_grad
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.penalty is None
        assert other.regulariser == model.regulariser


def test_images_are_regularised_in_every_block_and_augmented():
    torch.manual_seed(0)
    model = ODENet(1, 3, 8, (1, 1), augment=3, kinetic=0.1, jacobian=0.1, solver="euler", dt=1.0)
    logits = model(torch.randn(2, 1, 8, 8))
    found = [m.penalty for m in model.modules() if isinstance(m, ODEBlock)]
    assert len(found) == 2
    (logits.square().sum() + sum(found)).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.blocks[0].field.conv1.in_channels == 8 + 3 + 1


def test_what_does_not_go_together_is_one_sentence():
    with pytest.raises(ArgumentError, match="at least 0"):
        RNODE(kinetic=-1.0)
    with pytest.raises(ArgumentError, match="augment is a number of dimensions from 0"):
        ODENet(1, 3, 8, augment=-1)
    with pytest.raises(ArgumentError, match="state that is one tensor"):
        block(1.0, 0.0, lambda t, pair: pair)((torch.ones(2), torch.ones(2)))
