"""Exact gradients of solves in which every sample has its own steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ode_core
from ode_core import Event, UnsupportedError, solve
from ode_solvers import Checkpoint
from tests.problems import F64, flat

SOLVERS = [n for n, r in ode_core.solvers.items() if r.per_sample and r.differentiable]
replayed = pytest.mark.parametrize("gradient", ["checkpoint", "symplectic"])
NAN = math.nan
# Both directions, one that ends early, one that has ended at its start.
TIMES = torch.tensor(
    [[0.0, 0.3, 1.0, 1.0], [1.0, 0.6, 0.2, NAN], [0.0, 0.1, NAN, NAN], [0.5, NAN, NAN, NAN]],
    dtype=F64,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(F64)

    def forward(self, t, y):
        return 3.0 * self.layers(torch.cat([y, t.to(y)[:, None]], 1))


def gradients(gradient, solver, times=TIMES, **changed):
    torch.manual_seed(1)
    net = Net()
    y0 = torch.randn(len(times), 2, dtype=F64, requires_grad=True)
    adaptive = ode_core.solvers[solver].adaptive
    tolerance = 1e-4 if ode_core.solvers[solver].order < 3 else 1e-7
    options = {"rtol": tolerance, "atol": tolerance, "dt": 0.2} if adaptive else {"dt": 0.13}
    f, start = net, y0
    if ode_core.solvers[solver].takes_pairs:
        f, start = (lambda t, pair: (pair[1], net(t, pair[0]))), (y0, 0.5 * y0)
    solution = solve(f, start, times, solver=solver, gradient=gradient, stepping="per_sample",
                     **(options | changed))  # fmt: skip
    ys = flat(solution.ys)
    ys = torch.where(ys.isnan(), 0.0, ys)
    weights = torch.arange(ys.numel(), dtype=F64).reshape(ys.shape)
    loss = (ys * (1 + weights / 10)).sin().sum()
    return torch.autograd.grad(loss, [y0, *net.parameters()]), solution


def off(found, exact):
    top = sum((a - b).square().sum() for a, b in zip(found, exact, strict=True))
    return math.sqrt(top / sum(b.square().sum() for b in exact))


@replayed
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_gradient_is_that_of_the_direct_solve(solver, gradient):
    exact, first = gradients("direct", solver)
    found, second = gradients(gradient, solver)
    assert torch.equal(flat(first.ys).nan_to_num(), flat(second.ys).nan_to_num())
    record = ode_core.solvers[solver]
    # Implicit stages are solved to a part of the tolerance at first, to round-off later.
    allowed = 1e-6 if record.order < 3 else 1e-9
    assert off(found, exact) < (allowed if record.implicit and record.adaptive else 1e-10)
    assert second.stats.backward_f_calls > 0


@replayed
@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth", "leapfrog"])
def test_jumps_and_samples_that_leave_the_batch(solver, gradient):
    times = torch.cat([TIMES, torch.tensor([[0.0, 0.05]] * 8, dtype=F64).repeat(1, 2).sort(1)[0]])
    jumps = torch.full((len(times), 1), NAN, dtype=F64)
    jumps[:2, 0] = torch.tensor([0.35, 0.55])
    exact, _ = gradients("direct", solver, times, jump_times=jumps)
    found, _ = gradients(gradient, solver, times, jump_times=jumps)
    assert off(found, exact) < 1e-10


@pytest.mark.parametrize("gradient", ["checkpoint", "symplectic", "reversible", "adjoint"])
@pytest.mark.parametrize("at", [0.0, 1.0], ids=["start", "end"])
def test_a_jump_on_an_end_is_met_from_the_inner_side(gradient, at):
    """Where a carry is made at the start, its gradient is that of the far side."""
    rate = torch.tensor(2.0, dtype=F64, requires_grad=True)

    def run(gradient):
        y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
        f = lambda t, y: torch.where(t == at, 50.0, rate)[:, None] * -y
        ys = solve(f, y0, [0.0, 0.5, 1.0], solver="alf", dt=1 / 64, gradient=gradient,
                   stepping="per_sample", jump_times=[at]).ys  # fmt: skip
        return torch.autograd.grad(ys[1:].square().sum(), [y0, rate])

    assert off(run(gradient), run("direct")) < (1e-3 if gradient == "adjoint" else 1e-10)


@replayed
def test_times_get_gradients(gradient):
    def run(gradient):
        t = TIMES[:2, :3].clone().requires_grad_()
        y0 = torch.ones(2, 1, dtype=F64)
        f = lambda t, y: -y * t[:, None]
        ys = solve(f, y0, t, gradient=gradient, stepping="per_sample", rtol=1e-9, atol=1e-9).ys
        return torch.autograd.grad(ys.square().sum(), t)

    assert off(run(gradient), run("direct")) < 1e-7


@replayed
def test_a_sample_that_fails_leaves_the_others_gradients(gradient):
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.1]], dtype=F64, requires_grad=True)
    solution = solve(lambda t, y: rate * y * y, y0, [0.0, 2.0], gradient=gradient,
                     stepping="per_sample", on_failure="return", rtol=1e-9, atol=1e-9)  # fmt: skip
    assert solution.ys[-1, 0].isnan()
    found = torch.autograd.grad(solution.ys[-1, 1].sum(), [rate, y0])
    exact = 0.1**2 * 2.0 / (1 - 0.2) ** 2
    assert found[0].item() == pytest.approx(exact, rel=1e-6)
    assert found[1][:, 0].tolist() == pytest.approx([0.0, 1 / (1 - 0.2) ** 2], rel=1e-6)


@replayed
def test_what_has_no_row_is_refused(gradient):
    y0 = torch.ones(2, 1, requires_grad=True)
    start = lambda **options: solve(lambda t, y: -y, y0, [0.0, 1.0], stepping="per_sample",
                                    gradient=gradient, **options)  # fmt: skip
    for options in (
        {"event": Event(lambda t, y: y[:, 0] - 0.5)},
        {"integrand": lambda t, y: y.square()},
    ):
        with pytest.raises(UnsupportedError, match="knows neither events nor integrands"):
            start(**options)


def test_a_budget_is_for_shared_steps():
    with pytest.raises(UnsupportedError, match="keeps to a budget with shared steps only"):
        gradients(Checkpoint(states=3), "dopri5")
