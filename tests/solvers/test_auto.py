"""The solver that switches: as cheap as the explicit one, as able as the implicit one."""

from __future__ import annotations

import pickle

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, solve
from ode_core.testing.problems import DETEST, PROBLEMS
from ode_solvers.auto import Auto
from ode_solvers.implicit.methods import radau5
from ode_solvers.methods import rk4, tsit5
from tests.problems import F64


def run(name, solver, tolerance, *, small=1.0):
    problem = PROBLEMS[name]
    options = dict(rtol=tolerance, atol=tolerance * small, max_steps=100_000)
    solution = solve(problem.f, problem.y0, [0.0, problem.t1], solver=solver, **options)
    error = (solution.ys[-1] - problem.y1).abs() / (
        tolerance * small + tolerance * problem.y1.abs()
    )
    return solution, error.max().item()


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_it_costs_no_more_than_dopri5_where_nothing_is_stiff(tolerance):
    total = {"auto": 0, "dopri5": 0}
    for name in DETEST:
        calls = {solver: run(name, solver, tolerance)[0].stats.f_calls for solver in total}
        assert calls["auto"] <= 1.25 * calls["dopri5"], name
        total = {solver: total[solver] + calls[solver] for solver in total}
    assert total["auto"] <= 1.02 * total["dopri5"]


@pytest.mark.parametrize(
    ("name", "small"), [("robertson", 1e-4), ("van_der_pol_1e-6", 1.0), ("hires", 1e-4)]
)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_it_costs_little_more_than_kvaerno5_where_something_is(name, small, tolerance):
    implicit, _ = run(name, "kvaerno5", tolerance, small=small)
    solution, error = run(name, "auto", tolerance, small=small)
    assert solution.stats.f_calls <= 1.5 * implicit.stats.f_calls
    assert error < 100
    assert [switch.method for switch in solution.switches][:1] == ["kvaerno5"]


def test_it_comes_back_when_stiffness_ends():
    def f(t, y):
        rate = torch.where((t > 1) & (t < 3), 2000.0, 1.0)
        return -rate * (y - torch.cos(t))

    solution = solve(f, torch.zeros(1, dtype=F64), [0.0, 9.0], solver="auto", jump_times=[1.0, 3.0])
    assert [switch.method for switch in solution.switches] == ["kvaerno5", "dopri5"]
    assert 1.0 < solution.switches[0].t < 3.0 < solution.switches[1].t < 5.0
    alone = solve(f, torch.zeros(1, dtype=F64), [0.0, 9.0], jump_times=[1.0, 3.0])
    assert solution.stats.f_calls < 0.2 * alone.stats.f_calls
    assert torch.allclose(solution.ys[-1], alone.ys[-1], atol=1e-4)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_gradients_pass_the_switches(gradient):
    rate = torch.tensor(3000.0, dtype=F64, requires_grad=True)

    def end(rate, **options):
        f = lambda t, y: -rate * (y - torch.sin(t)) / (1 + y * y)
        y0 = torch.ones(1, dtype=F64)
        return solve(f, y0, [0.0, 0.5, 2.0], solver="auto", rtol=1e-6, atol=1e-6, **options)

    solution = end(rate, gradient=gradient)
    assert solution.switches
    (found,) = torch.autograd.grad(solution.ys[-1].sum(), rate)
    (exact,) = torch.autograd.grad(end(rate).ys[-1].sum(), rate)
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)
    with torch.no_grad():
        ahead, behind = (
            solve(lambda t, y, r=r: -r * (y - torch.sin(t)) / (1 + y * y), torch.ones(1, dtype=F64),
                  [0.0, 2.0], solver="radau5", rtol=1e-11, atol=1e-11).ys[-1].item()
            for r in (rate + 30, rate - 30)
        )  # fmt: skip
    assert found.item() == pytest.approx((ahead - behind) / 60, rel=0.02)


def test_other_pairs_given_steps_and_copies():
    solver = Auto(tsit5(), radau5())
    assert pickle.loads(pickle.dumps(solver)) == solver
    f = lambda t, y: -500.0 * (y - torch.cos(t))
    solution = solve(f, torch.zeros(1, dtype=F64), [0.0, 3.0], solver=solver)
    assert solution.switches[0].method == "radau5"
    given = dict(controller=FixedSteps(), dt=0.01)
    y0 = torch.ones(2, dtype=F64)
    plain = solve(lambda t, y: -y, y0, [0.0, 1.0], **given)
    assert torch.equal(solve(lambda t, y: -y, y0, [0.0, 1.0], solver="auto", **given).ys, plain.ys)
    with pytest.raises(ArgumentError, match="such as dopri5 or tsit5; got rk4"):
        Auto(rk4())
    with pytest.raises(ArgumentError, match="kvaerno5, radau5 or trbdf2; got gl4"):
        Auto(implicit_method=ode_core.solvers.create("gl4"))
