"""What the continuous adjoint can be told: its norm, its parameters, its solver, its plan."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ode_core import ArgumentError, FixedSteps, UnsupportedError
from ode_solvers import Adjoint, solve

F64 = torch.float64


class Net(torch.nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)
        ).double()
        self.idle = torch.nn.Linear(2, 5).double()

    def forward(self, t, y):
        return self.layers(y) * torch.sin(20 * t)


def trained(method, **options):
    """Return (backward calls of f, gradient of the first layer, gradient of y0)."""
    torch.manual_seed(3)
    net, y0 = Net(), torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    options = {"rtol": 1e-7, "atol": 1e-9} | options
    solution = solve(net, y0, [0.0, 1.0], gradient=method, **options)
    solution.ys[-1].sum().backward()
    return solution.stats.backward_f_calls, net.layers[0].weight.grad, y0.grad


def test_the_seminorm_takes_fewer_backward_calls_for_nearly_the_same_gradient():
    full_calls, full, full_y0 = trained(Adjoint())
    semi_calls, semi, semi_y0 = trained(Adjoint(norm="semi"))
    assert semi_calls < 0.9 * full_calls
    assert torch.allclose(semi_y0, full_y0, rtol=1e-5)
    assert torch.allclose(semi, full, rtol=1e-4, atol=1e-7)


def test_the_seminorm_of_a_complex_state_with_tolerances_for_each_entry():
    rate = torch.tensor(-0.3 + 1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.ones(2, dtype=torch.complex128, requires_grad=True)
    tolerances = {"rtol": 1e-9, "atol": torch.tensor([1e-9, 1e-10], dtype=F64)}
    y1 = solve(lambda t, y: rate * y, y0, [0.0, 1.0], gradient=Adjoint(norm="semi"), **tolerances)
    (g,) = torch.autograd.grad(y1.ys[-1].real.sum(), rate)
    wanted = 2 * torch.exp(rate.detach()).conj()
    assert abs(g - wanted) < 1e-6


def test_an_unknown_norm_is_refused():
    with pytest.raises(ArgumentError, match="norm='full' or norm='semi'"):
        Adjoint(norm="quarter")


def test_given_parameters_get_gradients_and_others_none():
    a = torch.tensor(-0.5, dtype=F64, requires_grad=True)
    b = torch.tensor(0.1, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    solution = solve(
        lambda t, y: a * y + b, y0, [0.0, 1.0], gradient=Adjoint(parameters=(a,)), rtol=1e-9
    )
    got = torch.autograd.grad(solution.ys[-1].sum(), (a, b), allow_unused=True)
    assert got[1] is None
    h = 1e-6
    ends = [math.exp(x) + 0.1 * (math.exp(x) - 1) / x for x in (-0.5 - h, -0.5 + h)]
    assert abs(got[0].item() - (ends[1] - ends[0]) / (2 * h)) < 1e-6


def test_a_backward_solver_without_error_estimate_goes_back_over_the_accepted_steps():
    forward_steps = solve(Net(), torch.tensor([1.0, 2.0], dtype=F64), [0.0, 1.0], rtol=1e-7,
                          atol=1e-9).stats.accepted  # fmt: skip
    calls, _, y0 = trained(Adjoint(solver="rk4"))
    _, _, wanted = trained("direct")
    assert abs(calls - 4 * forward_steps) <= 20
    assert torch.allclose(y0, wanted, rtol=1e-4)


def test_tolerances_make_the_backward_solve_of_fixed_steps_adaptive():
    fixed = {"solver": "rk4", "dt": 0.01, "rtol": None, "atol": None}
    same, _, _ = trained(Adjoint(), **fixed)
    own, _, y0 = trained(Adjoint(solver="dopri5", rtol=1e-10, atol=1e-12), **fixed)
    _, _, wanted = trained("direct", rtol=1e-11, atol=1e-13)
    assert same == 400
    assert own != same
    assert torch.allclose(y0, wanted, rtol=1e-6)
    with pytest.raises(ArgumentError, match="no effect on a backward solve with fixed steps"):
        trained(Adjoint(rtol=1e-9), **fixed)


def test_the_plan_of_the_backward_solve_can_be_replaced():
    seen = []

    def plan(adjoint, plan, times):
        seen.append((adjoint.segments, times))
        grid = FixedSteps(torch.linspace(1.0, 0.0, 11, dtype=F64))
        return replace(plan, controller=grid, tolerance=None)

    calls, _, _ = trained(Adjoint(backward=plan))
    parameters = sum(p.numel() for p in Net().parameters())
    assert seen == [((2, 2, parameters), (0.0, 1.0))]
    assert calls == 61  # dopri5 evaluates six stages a step, and one at the start


def test_the_adjoint_of_a_pair_takes_another_solver():
    q = torch.ones(2, dtype=F64, requires_grad=True)
    options = {"solver": "velocity_verlet", "dt": 0.01}

    def solved(gradient):
        start = (q, torch.zeros(2, dtype=F64))
        return solve(lambda t, y: (y[1], -y[0]), start, [0.0, 1.0], gradient=gradient, **options)

    with pytest.raises(UnsupportedError, match="Adjoint\\('dopri5'\\)"):
        solved("adjoint")
    with torch.no_grad():
        assert solved("adjoint").ys[0].shape == (2, 2)
    end = solved(Adjoint("dopri5", rtol=1e-8, atol=1e-8)).ys[0][-1]
    (grad,) = torch.autograd.grad(end.sum(), q)
    assert torch.allclose(grad, torch.cos(torch.ones(2, dtype=F64)), rtol=1e-4)
