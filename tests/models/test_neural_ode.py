"""The neural ODE of the dynamics tasks."""

from __future__ import annotations

import pytest
import torch

import ode_core
from tests.problems import FOR_MANY, solved_for


def test_it_is_registered_for_dynamics():
    assert ode_core.models["neural_ode"].fits == "dynamics"


@pytest.mark.parametrize("gradient", FOR_MANY)
def test_trajectories_and_gradients(gradient):
    model = ode_core.models.create(
        "neural_ode",
        dim=2,
        width=8,
        gradient=gradient,
        **(solved_for(gradient) if gradient == "reversible" else {}),
    )
    y0, t = torch.randn(4, 2), torch.linspace(0, 1, 5)
    ys = model(y0, t)
    assert ys.shape == (5, 4, 2)
    assert torch.equal(ys[0], y0)
    ys.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.stats.f_calls > 0
    assert model.t == pytest.approx((0.0, 0.25, 0.5, 0.75, 1.0))


def test_it_recovers_a_rotation():
    torch.manual_seed(0)
    model = ode_core.models.create("neural_ode", dim=2, width=16, solver="rk4", dt=0.1)
    t = torch.linspace(0, 0.5, 6)
    y0 = torch.randn(64, 2)
    turn = torch.stack(
        [torch.stack([t.cos(), t.sin()], -1), torch.stack([-t.sin(), t.cos()], -1)], 1
    )
    wanted = torch.einsum("bi,tij->tbj", y0, turn.transpose(1, 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = (model(y0, t) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 1e-3
