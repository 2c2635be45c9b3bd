"""Products with a field's Jacobian carry every kind of derivative on."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from ode_core.protocols import RunConfig
from ode_models.products import pulled
from ode_tasks.run import Silent, execute

Y = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64).view(2, 3)
V, W = torch.cos(Y), torch.sin(3.0 * Y)


def field(y):
    return torch.sin(y) * y.roll(1, -1)


@pytest.mark.parametrize("recorded", [True, False])
def test_forward_derivatives_go_through(recorded):
    def both(y):
        value, (product,) = pulled(field, y, [V])
        return torch.stack([value, product])

    with torch.set_grad_enabled(recorded), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(both(forward_ad.make_dual(Y, W))).tangent
    step = 1e-6
    expected = (both(Y + step * W) - both(Y - step * W)) / (2.0 * step)
    assert torch.allclose(tangent, expected, atol=1e-8)


def test_where_gradients_are_off_no_graph_is_left():
    with torch.no_grad():
        value, (product,) = pulled(field, Y, [V])
    assert not value.requires_grad
    assert not product.requires_grad


@pytest.mark.parametrize("solver", ["implicit_euler", "gl4"])
def test_flows_are_trained_by_implicit_methods_of_given_steps(solver):
    """With the field's derivative cut off Newton's method did not converge here."""
    found = execute(RunConfig("density", "cnf", solver, "direct", preset="smoke"), Silent())
    assert found["score"] < 3.2
