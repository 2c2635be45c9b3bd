"""Steps taken back: the discrete gradient from the end alone, and solvers made reversible."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import ArgumentError, SolveError, UnsupportedError, solve
from ode_solvers import Reversible
from ode_solvers.coupled import Coupled
from tests.problems import F64, Circle, lotka_volterra
from tests.solvers.rows import alone, march, ragged

SOLVERS = {
    "alf": ("alf", {"dt": 0.07}),
    "reversible_heun": ("reversible_heun", {"dt": 0.07}),
    "coupled rk4": (Reversible("rk4"), {"dt": 0.07}),
    "coupled dopri5": (Reversible("dopri5"), {"rtol": 1e-6, "atol": 1e-6}),
    "coupled dopri8": (Reversible("dopri8", 0.9), {"rtol": 1e-6, "atol": 1e-6}),
}


def gradients(gradient, name, dtype=F64, times=(0.0, 0.33, 0.7, 2.0), jumps=None):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).to(
        dtype
    )
    y0 = torch.randn(3, 2, dtype=dtype, requires_grad=True)
    solver, options = SOLVERS[name]
    f = lambda t, y: net(y) * torch.where(t < 1.0, torch.cos(t), 0.3)
    solution = solve(f, y0, times, solver=solver, gradient=gradient, jump_times=jumps, **options)
    found = torch.autograd.grad(solution.ys.square().sum(), [y0, *net.parameters()])
    return torch.cat([g.flatten() for g in found]), solution.stats


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("dtype", "bound"), [(F64, 1e-8), (torch.float32, 1e-2)], ids=str)
@pytest.mark.parametrize("jumps", [None, [0.4, 1.0]], ids=["smooth", "jumps"])
@pytest.mark.parametrize(
    "times", [(0.0, 0.33, 0.7, 2.0), (2.0, 1.1, 0.0), (0.0, 0.0, 1.0)], ids=str
)
def test_it_is_the_gradient_of_the_discrete_solve(name, dtype, bound, jumps, times):
    exact, forward = gradients("direct", name, dtype, times, jumps)
    found, stats = gradients("reversible", name, dtype, times, jumps)
    assert ((found - exact).norm() / exact.norm()).item() < bound
    assert stats.f_calls == forward.f_calls
    assert stats.backward_f_calls <= 2.2 * stats.f_calls


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_is_taken_back_with_the_evaluations_it_was_made_with(name):
    solver, options = SOLVERS[name]
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.2], dtype=F64)
    f = lambda t, y: torch.stack([y[1], -rate * torch.sin(y[0])])
    solution = solve(f, y0, [0.0, 2.0], solver=solver, gradient="reversible", **options)
    solution.ys[-1].sum().backward()
    # The start's own, and the end's where a step begins with the slope that the last one left.
    assert solution.stats.backward_f_calls <= solution.stats.f_calls + 1


class OnlyReverse:
    """A stranger's solver that can be taken back, and leaves its gradients to others."""

    name, order, adaptive, implicit, one_step = "only_reverse", 2, False, False, False

    def __init__(self):
        own = ode_core.solvers.create("alf")
        self.init, self.step, self.reverse = own.init, own.step, own.reverse


@pytest.mark.parametrize("times", [(0.0, 0.33, 0.7, 2.0), (2.0, 1.1, 0.0)], ids=str)
def test_a_strangers_reversible_solver_is_taken_back_and_made_again(times, monkeypatch):
    monkeypatch.setitem(SOLVERS, "stranger", (OnlyReverse(), {"dt": 0.07}))
    exact, _ = gradients("direct", "stranger", times=times, jumps=[0.4])
    found, stats = gradients("reversible", "stranger", times=times, jumps=[0.4])
    assert ((found - exact).norm() / exact.norm()).item() < 1e-10
    assert stats.backward_f_calls > 1.7 * stats.f_calls


def test_the_registered_names_go_together():
    y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    turn = lambda t, y: torch.stack([y[1], -y[0]])
    runs = [
        solve(turn, y0, [0.0, 3.0], solver="reversible_dopri5", gradient=gradient, rtol=1e-8)
        for gradient in ("direct", "reversible")
    ]
    exact, found = (torch.autograd.grad(run.ys[-1, 0], y0)[0] for run in runs)
    assert torch.allclose(found, exact, rtol=0, atol=1e-11)
    assert torch.allclose(exact, torch.tensor([math.cos(3), math.sin(3)], dtype=F64), atol=1e-6)


def test_a_step_back_that_is_not_finite_is_refused():
    """The second increment alone meets NaN: its state is one that the first does not reach."""
    solver, y0 = Reversible("dopri5"), torch.tensor([1.0], dtype=F64)
    calls = []

    def f(t, y):
        calls.append(t)
        return torch.full_like(y, math.nan if len(calls) > 7 else 1.0)

    tolerance = ode_core.Tolerance(1e-6, 1e-6)
    step = solver.step(f, 0.0, 0.1, y0, (y0.clone(),), tolerance)
    assert len(calls) > 7
    assert step.y.isfinite().all()
    assert step.error == math.inf


@pytest.mark.parametrize("solver", ["dopri5", "kvaerno5", "adams_moulton"])
def test_a_solver_that_cannot_go_back_is_refused_with_what_to_take(solver):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    with pytest.raises(UnsupportedError, match="'reversible_dopri5'"):
        solve(lotka_volterra, y0, [0.0, 1.0], solver=solver, gradient="reversible")


@pytest.mark.parametrize("name", ["alf", "reversible_heun", "coupled rk4"])
def test_what_cannot_be_rebuilt_raises(name):
    """Decay: the second solution's part is lost in rounding, and grows on the way back."""
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    solver, _ = SOLVERS[name]
    ys = solve(
        lambda t, y: -8 * y, y0, [0.0, 9.0], solver=solver, dt=0.05, gradient="reversible"
    ).ys
    with pytest.raises(SolveError, match=r"could not be taken back: at t = .* of its size away"):
        ys[-1].sum().backward()


def test_no_graph_is_kept_in_the_forward_solve():
    recorded = []

    def f(t, y):
        recorded.append(torch.is_grad_enabled())
        return -y

    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    solve(f, y0, [0.0, 1.0], solver="alf", dt=0.1, gradient="reversible")
    assert not any(recorded)


def test_one_name_for_the_gradient_and_for_the_solver():
    assert Reversible() == ode_core.gradients.create("reversible")
    solver = Reversible("dopri5", coupling=0.9)
    assert isinstance(solver, Coupled)
    assert (solver.name, solver.order, solver.coupling) == ("reversible_dopri5", 5, 0.9)
    assert Reversible(ode_core.solvers.create("rk4")).coupling == 0.999
    with pytest.raises(ArgumentError, match="coupling has no effect"):
        Reversible(coupling=0.9)
    for coupling in (0.0, 1.1, -1.0):
        with pytest.raises(ArgumentError, match="above 0 and at most 1"):
            Reversible("dopri5", coupling)
    for base in ("kvaerno5", "adams_moulton", "leapfrog"):
        with pytest.raises(ArgumentError, match="takes an explicit method"):
            Reversible(base)


@pytest.mark.parametrize(
    ("base", "order"), [("euler", 1), ("midpoint", 2), ("bosh3", 3), ("rk4", 4), ("dopri5", 5)]
)
@pytest.mark.parametrize(("coupling", "steps"), [(0.999, 60), (0.9, 240)])
def test_the_coupled_method_has_the_order_of_its_base(base, order, coupling, steps):
    problem, solver = Circle(0.5), Reversible(base, coupling)
    errors = [
        (solve(problem, problem.y0, [0.0, 3.0], solver=solver, dt=3.0 / n,
               controller=ode_core.FixedSteps()).ys[-1] - problem.exact(3.0)).norm().item()
        for n in (steps, 2 * steps)
    ]  # fmt: skip
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.45)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_its_chosen_steps_err_by_the_tolerance_at_every_output(tolerance):
    problem = Circle(0.5)
    times = torch.linspace(0, 3, 50, dtype=F64)
    ys = solve(problem, problem.y0, times, solver=Reversible("dopri5"), rtol=tolerance,
               atol=tolerance).ys  # fmt: skip
    errors = [(y - problem.exact(t.item())).norm().item() for t, y in zip(times, ys, strict=True)]
    assert max(errors) < 10 * tolerance


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_solutions_that_part_fail_the_solve(stepping):
    y0 = torch.ones(1, 2, dtype=F64)
    with pytest.raises(SolveError, match="may be stiff"):
        solve(lambda t, y: -5 * y + torch.cos(t).reshape(-1, 1), y0, [0.0, 10.0],
              solver=Reversible("dopri5"), stepping=stepping)  # fmt: skip


def test_rows_of_a_batch_are_the_rows_alone_and_are_taken_back():
    def f(t, y):
        turn = torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)
        return turn + torch.cos(torch.as_tensor(t, dtype=F64))[..., None] * y

    solver, grids = Reversible("rk4"), ragged()
    start = torch.tensor([[1.0, 0.3], [0.2, -0.7], [2.0, 0.1]], dtype=F64)
    y, carry = march(solver, f, start, grids)
    for row, grid in enumerate(grids):
        wanted = alone(solver, f, start[row], grid[: len(grid.unique())] if row == 2 else grid)
        assert torch.allclose(y[row], wanted, rtol=0, atol=1e-14)
    for i in reversed(range(grids.shape[1] - 1)):
        y, carry = solver.reverse(f, grids[:, i], grids[:, i + 1], y, carry)
    assert (y - start).abs().max() < 1e-12
    assert (carry[0] - start).abs().max() < 1e-12


def test_per_sample_steps_by_direct():
    y0 = torch.tensor([[1.0, 1.2], [0.6, 0.9]], dtype=F64, requires_grad=True)
    f = lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)
    times = [0.0, 0.4, 1.0]
    own = solve(f, y0, times, solver=Reversible("dopri5"), stepping="per_sample", rtol=1e-8).ys
    plain = solve(f, y0, times, rtol=1e-10, atol=1e-10).ys
    assert (own - plain).abs().max() < 1e-5
    a, b = (torch.autograd.grad(ys.square().sum(), y0)[0] for ys in (own, plain))
    assert (a - b).abs().max() < 1e-4
