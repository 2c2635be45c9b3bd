"""A density by a flow: it integrates to 1, goes back, and its two traces agree."""

from __future__ import annotations

import math

import pytest
import torch

from ode_core import ArgumentError
from ode_models import CNF
from tests.problems import F64

TIGHT = {"rtol": 1e-8, "atol": 1e-8}


def flow(dim=2, strength=0.6, **options):
    torch.manual_seed(0)
    model = CNF(dim, 8, **(TIGHT | options)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 + strength)
    return model


def test_a_density_integrates_to_one():
    model = flow(rtol=1e-6, atol=1e-6).eval()
    steps = torch.linspace(-8.0, 8.0, 81, dtype=F64)
    points = torch.cartesian_prod(steps, steps)
    with torch.no_grad():
        heights = model(points).exp().view(81, 81)
    total = torch.trapezoid(torch.trapezoid(heights, steps), steps)
    assert float(total) == pytest.approx(1.0, abs=1e-4)
    # The flow is not the identity, whose integral is 1 whatever the trace.
    normal = torch.exp(-0.5 * points.square().sum(1)).view(81, 81) / (2 * math.pi)
    assert float((heights - normal).abs().max()) > 0.01


def test_the_change_is_the_log_determinant_of_the_flow():
    model = flow().eval()
    points = torch.randn(3, 2, dtype=F64)
    change = model.base(points)[1].detach()
    for row, wanted in zip(points, change, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: model.base(x[None])[0][0], row)
        assert float(wanted) == pytest.approx(float(jacobian.det().abs().log()), abs=1e-5)


def test_the_flow_goes_back_to_where_it_came_from():
    model = flow().eval()
    points = 2.0 * torch.randn(50, 2, dtype=F64)
    with torch.no_grad():
        base, _ = model.base(points)
        assert torch.allclose(model.back(base), points, atol=1e-5)
        assert float((base - points).norm(dim=1).mean()) > 0.01


def test_samples_have_the_density_that_the_flow_says():
    model = flow(rtol=1e-5, atol=1e-5).eval()
    generator = torch.Generator().manual_seed(5)
    drawn = model.sample(4000, generator=generator)
    assert drawn.shape == (4000, 2)
    assert torch.equal(model.sample(3, generator=generator.manual_seed(5)),
                       model.sample(3, generator=generator.manual_seed(5)))  # fmt: skip
    # The mean of log p over its own samples is minus the entropy, which a grid gives, too.
    steps = torch.linspace(-8.0, 8.0, 81, dtype=F64)
    with torch.no_grad():
        logs = model(torch.cartesian_prod(steps, steps))
        found = float(model(drawn).mean())
    wanted = float((logs.exp() * logs).sum()) * 0.2**2
    assert found == pytest.approx(wanted, abs=0.06)


def test_hutchinsons_trace_is_right_in_the_mean_and_evaluation_is_exact():
    model = flow(3, 1.5, trace="hutchinson", rtol=1e-4, atol=1e-4)
    point = torch.tensor([[0.5, -1.0, 0.3]], dtype=F64)
    with torch.no_grad():
        exact = float(model.eval().base(point)[1])
        torch.manual_seed(1)
        _, changes = model.train().base(point.expand(20_000, -1))
    spread = float(changes.std()) / math.sqrt(len(changes))
    assert spread > 0.0
    assert float(changes.mean()) == pytest.approx(exact, abs=4.0 * spread)
    with torch.no_grad():
        _, changes = model.eval().base(point.expand(10, -1))
    assert torch.allclose(changes, torch.full_like(changes, exact), atol=1e-6)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("gradient", ["adjoint", "checkpoint", "symplectic"])
def test_the_likelihoods_gradient_is_the_same_by_every_method(gradient, trace):
    points = torch.randn(5, 2, dtype=F64)

    def pulled(name):
        model = flow(trace=trace, gradient=name, kinetic=0.1, jacobian=0.1)
        torch.manual_seed(3)
        (model(points).mean() + model.block.penalty).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    wanted = pulled("direct")
    tolerance = 1e-4 if gradient == "adjoint" else 1e-9
    assert float((pulled(gradient) - wanted).norm()) < tolerance * float(wanted.norm())


def test_a_trace_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="trace is one of exact, hutchinson"):
        CNF(2, 8, trace="full")
