"""Second derivatives of direct and checkpoint, in whatever a solve depends on."""

from __future__ import annotations

import pytest
import torch

from ode_core import FixedSteps, solve
from ode_solvers import Checkpoint
from tests.problems import F64
from tests.solvers.differentiated import Net, off, problem


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", Checkpoint(states=2)], ids=str)
def test_second_derivatives(gradient):
    torch.manual_seed(0)
    x = torch.randn(2, dtype=F64, requires_grad=True)
    rate = torch.tensor(1.5, dtype=F64, requires_grad=True)

    def end(x, rate, **options):
        y0, matrix = x.exp(), torch.outer(x, x)  # a start and an input with graphs of their own
        f = lambda t, y: rate * torch.tanh(matrix @ y) - y
        return solve(f, y0, [0.0, 0.0, 0.3, 1.0], gradient=gradient, **options).ys

    for options in (
        {"solver": "rk4", "dt": 0.25},
        {"solver": "leapfrog", "dt": 0.25},
        {"solver": "adams_bashforth", "controller": FixedSteps(), "dt": 0.1},
        {"solver": "kvaerno5", "controller": FixedSteps(), "dt": 0.3},
    ):
        check = lambda x, rate, options=options: end(x, rate, **options)
        assert torch.autograd.gradgradcheck(check, (x, rate))


def test_second_derivatives_of_chosen_steps():
    def hessian(gradient, solver):
        net = Net()
        torch.manual_seed(3)
        y0 = torch.randn(1, 2, dtype=F64, requires_grad=True)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, dtype=F64))
        ys = solve(net, y0, [0.0, 0.4, 1.0], solver=solver, gradient=gradient, rtol=1e-6,
                   atol=1e-6).ys  # fmt: skip
        first = torch.autograd.grad(ys.square().sum(), [y0, *net.parameters()], create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        return torch.autograd.grad(penalty, [y0, *net.parameters()])

    for solver in ("dopri5", "dopri8", "adams_moulton"):
        assert off(hessian("checkpoint", solver), hessian("direct", solver)) < 1e-10


def test_second_derivatives_through_the_history_of_an_earlier_solve():
    def hessian(gradient):
        net, y0, wanted = problem("leapfrog")
        options = {"solver": "leapfrog", "dt": 0.1, "gradient": gradient}
        begun = solve(net, y0, [0.0, 0.5], **options)
        ys = solve(net, begun.state, [0.5, 1.0], **options).ys
        first = torch.autograd.grad(ys.square().sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), wanted)

    assert off(hessian("checkpoint"), hessian("direct")) < 1e-10
