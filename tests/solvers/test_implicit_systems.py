"""Implicit methods on batches and large states, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ode_core
from ode_core import ArgumentError, FixedSteps, SolveError, UnsupportedError, solve
from ode_solvers.implicit.gmres import gmres
from ode_solvers.implicit.jacobian import jacobian, product
from ode_solvers.implicit.linear import DENSE_LIMIT, LU, Krylov
from ode_solvers.implicit.system import System, node_time
from tests.problems import F64, van_der_pol

IMPLICIT = [n for n, r in ode_core.solvers.items() if r.target.startswith("ode_solvers.implicit.")]
ADAPTIVE = [name for name in IMPLICIT if ode_core.solvers[name].adaptive]


def pendulums(stiffness):
    """Van der Pol's equation for each sample, with its own stiffness; f counts on its batch."""
    rates = torch.tensor(stiffness, dtype=F64)

    def f(t, y):
        assert len(y) == len(rates), "f sees the whole batch"
        x, v = y.unbind(-1)
        return torch.stack([v, rates * (1 - x * x) * v - x], -1)

    return f


START = torch.tensor([[2.0, 0.0], [1.5, 0.5], [2.0, 0.1]], dtype=F64)


def carried(t, y):
    """The same with the stiffness as a third component, for batches that samples leave."""
    x, v, rate = y.unbind(-1)
    return torch.stack([v, rate * (1 - x * x) * v - x, torch.zeros_like(x)], -1)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_per_sample_steps_are_those_of_each_sample_alone(name):
    start = torch.cat([START, torch.tensor([[1.0], [30.0], [1000.0]], dtype=F64)], 1)
    options = dict(solver=name, rtol=1e-5, atol=1e-5)
    times = [0.0, 1.0, 3.0]
    together = solve(carried, start, times, stepping="per_sample", **options)
    for index in range(3):
        one = slice(index, index + 1)
        alone = solve(carried, start[one], times, **options)
        assert torch.allclose(alone.ys[:, 0], together.ys[:, index], rtol=1e-11, atol=1e-12)
        assert alone.stats.accepted == together.stats.accepted[index]


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_row_that_stands_still_is_unchanged_beside_one_that_moves(name):
    solver = ode_core.solvers.create(name)
    f, y = pendulums([1.0, 50.0, 3.0]), START
    t0 = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    t1 = torch.tensor([0.1, 0.5, 0.98], dtype=F64)
    first = solver.step(f, t0, t1, y, solver.init(f, t0, y), None)
    assert torch.equal(first.y[1], y[1])
    assert (first.y[[0, 2]] != y[[0, 2]]).all()
    shared = solver.init(lambda t, y: pendulums([1.0])(t, y), 0.0, y[:1])
    alone = solver.step(lambda t, y: pendulums([1.0])(t, y), 0.0, 0.1, y[:1], shared, None)
    assert torch.allclose(first.y[0], alone.y[0], atol=1e-14)
    again = solver.step(f, t1, t1 + t1 - t0 + 0.01, first.y, first.carry, None)
    assert again.y.isfinite().all()


def test_a_sample_whose_equations_cannot_be_solved_leaves_the_others_alone():
    def f(t, y):
        up = torch.where(y > 0.5, -1e3, 1e3)
        return torch.where(torch.arange(len(y))[:, None] == 1, up.to(y.dtype), -y)

    solver = ode_core.solvers.create("implicit_euler")
    y, t0 = torch.ones(3, 1, dtype=F64), torch.zeros(3, dtype=F64)
    step = solver.step(f, t0, t0 + 0.5, y, solver.init(f, t0, y), None)
    assert step.y[1].isnan().all()
    assert step.y[[0, 2], 0].tolist() == pytest.approx([1 / 1.5] * 2)


def test_batched_means_blocks_and_fewer_evaluations():
    f, start = pendulums([float(rate) for rate in range(1, 16)]), START.repeat(5, 1)
    whole = solve(f, start, [0.0, 2.0], solver="radau5", rtol=1e-8, atol=1e-8)
    blocks = solve(f, start, [0.0, 2.0], rtol=1e-8, atol=1e-8,
                   solver=ode_core.solvers.create("radau5", batched=True))  # fmt: skip
    assert torch.allclose(whole.ys, blocks.ys, atol=1e-7)
    # 30 columns against 2 for each Jacobian.
    assert blocks.stats.f_calls < whole.stats.f_calls - 28
    assert abs(blocks.stats.accepted - whole.stats.accepted) <= 2


def test_a_jacobian_for_each_sample():
    def own(t, y):
        x, v = y.unbind(-1)
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        rows = [
            torch.stack([zero, one], -1),
            torch.stack([-2 * 5 * x * v - 1, 5 * (1 - x * x)], -1),
        ]
        return torch.stack(rows, 1)

    f = pendulums([5.0] * 3)
    solver = ode_core.solvers.create("kvaerno5", batched=True, jacobian=own)
    found = solve(f, START, [0.0, 2.0], solver=solver, rtol=1e-8, atol=1e-8)
    plain = solve(f, START, [0.0, 2.0], solver="kvaerno5", rtol=1e-8, atol=1e-8)
    assert torch.allclose(found.ys, plain.ys, atol=1e-7)
    assert found.stats.f_calls < plain.stats.f_calls


def test_jacobian_is_the_derivative_for_blocks_and_for_one_system():
    y = torch.randn(4, 3, dtype=F64)
    mixing = torch.randn(3, 3, dtype=F64)
    f = lambda t, y: torch.tanh(y @ mixing) * y
    whole = jacobian(System.of(f, y, batched=False), 0.0, y.reshape(1, -1))
    exact = torch.func.jacfwd(lambda y: f(0.0, y))(y).reshape(12, 12)
    assert torch.allclose(whole[0], exact)
    blocks = jacobian(System.of(f, y, batched=True), 0.0, y)
    assert torch.allclose(blocks, torch.stack([exact.view(4, 3, 4, 3)[i, :, i] for i in range(4)]))
    v = torch.randn(4, 3, dtype=F64)
    assert torch.allclose(product(System.of(f, y, batched=True), 0.0, y, v),
                          (blocks @ v[:, :, None])[:, :, 0])  # fmt: skip


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_gmres_solves_several_systems_at_once(dtype):
    matrices = torch.randn(3, 30, 30, dtype=dtype) + 8 * torch.eye(30)
    right = torch.randn(3, 30, dtype=dtype)
    right[1] = 0.0
    times = lambda v: (matrices @ v[:, :, None])[:, :, 0]
    found = gmres(times, right, 1e-11, 12, 20)
    assert torch.allclose(times(found), right, atol=1e-9)
    assert torch.equal(found[1], right[1])
    assert gmres(lambda v: v * torch.nan, right, 1e-3, 5, 2).isnan().all()


def heat(n):
    """Heat conduction with a source that depends on the state; the Jacobian is n by n."""

    def f(t, y):
        inner = torch.nn.functional.pad(y, (1, 1))
        return (inner[..., 2:] - 2 * y + inner[..., :-2]) * (n / 50) ** 2 + torch.sin(y)

    return f


@pytest.mark.parametrize("name", ["trbdf2", "radau5", "sdirk2"])
def test_large_states_need_no_matrix(name):
    """A thousand unknowns; explicit and dense solves would take thousands of evaluations."""
    n = 1000
    y0 = torch.sin(torch.linspace(0, 3, n, dtype=F64))
    options = dict(dt=0.05) if name == "sdirk2" else dict(rtol=1e-4, atol=1e-4)
    solution = solve(heat(n), y0, [0.0, 0.3], solver=name, **options)
    exact = solve(heat(n), y0, [0.0, 0.3], solver="dopri5", rtol=1e-8, atol=1e-8).ys[-1]
    assert (solution.ys[-1] - exact).abs().max() < (1e-2 if name == "sdirk2" else 2e-3)
    assert solution.stats.f_calls < 4000


def test_krylov_and_dense_give_the_same():
    y0 = torch.sin(torch.linspace(0, 3, 40, dtype=F64))
    options = dict(controller=FixedSteps(), dt=0.1)
    ends = [
        solve(heat(40), y0, [0.0, 0.3], solver=ode_core.solvers.create("radau5", linear=linear),
              **options).ys[-1]
        for linear in ("dense", "krylov", LU(), Krylov(restart=20))
    ]  # fmt: skip
    for end in ends[1:]:
        assert torch.allclose(ends[0], end, atol=1e-13)
    solver = ode_core.solvers.create("radau5")
    assert isinstance(solver.linear_solver(torch.zeros(1, DENSE_LIMIT)), LU)
    assert isinstance(solver.linear_solver(torch.zeros(1, DENSE_LIMIT + 1)), Krylov)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(F64)

    def forward(self, t, y):
        return self.layers(torch.cat([y, t.reshape(-1, 1).expand(len(y), 1)], 1)) - 20 * y


def run(solver, gradient, net, y0, **options):
    times = [0.0, 0.17, 0.5]
    ys = solve(net, y0, times, solver=solver, gradient=gradient, **options).ys
    return torch.autograd.grad(ys.sin().sum(), [y0, *net.parameters()])


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_exact_gradients_agree_with_finite_differences(name, stepping):
    """Steps are frozen by a grid; outputs lie within them."""
    net, y0 = Net(), torch.randn(3, 2, dtype=F64, requires_grad=True)
    options = dict(controller=FixedSteps(), dt=0.1, stepping=stepping)
    exact = run(name, "direct", net, y0, **options)
    if stepping == "shared":
        replayed = run(name, "checkpoint", net, y0, **options)
        for a, b in zip(exact, replayed, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    direction, eps = torch.randn_like(y0), 1e-6

    def loss(y0):
        return solve(net, y0, [0.0, 0.17, 0.5], solver=name, **options).ys.sin().sum()

    with torch.no_grad():
        slope = (loss(y0 + eps * direction) - loss(y0 - eps * direction)) / (2 * eps)
    assert (exact[0] * direction).sum().item() == pytest.approx(slope.item(), rel=1e-7)


def test_batched_and_krylov_gradients_are_the_dense_ones():
    net, y0 = Net(), torch.randn(3, 2, dtype=F64, requires_grad=True)
    dense, *others = (
        run(ode_core.solvers.create("radau5", **given), "direct", net, y0, controller=FixedSteps(),
            dt=0.1)
        for given in ({}, {"batched": True}, {"linear": "krylov"})
    )  # fmt: skip
    for other in others:
        for a, b in zip(dense, other, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_krylov_refuses_second_derivatives_and_says_when_it_does_not_converge():
    y0 = torch.sin(torch.linspace(0, 3, 40, dtype=F64)).requires_grad_()
    solver = ode_core.solvers.create("sdirk2", linear="krylov")
    end = solve(heat(40), y0, [0.0, 0.1], solver=solver, dt=0.1).ys[-1]
    with pytest.raises(UnsupportedError, match="take linear='dense'"):
        torch.autograd.grad(end.sum(), y0, create_graph=True)
    short = Krylov(restart=1, restarts=1)
    f = heat(400)
    y0 = torch.sin(torch.linspace(0, 3, 400, dtype=F64))
    with pytest.raises(SolveError, match="could not solve its equations"):
        solve(f, y0, [0.0, 1.0], dt=1.0, solver=ode_core.solvers.create("sdirk2", linear=short))


def test_without_anything_to_differentiate_the_solve_costs_the_same():
    f, y0 = van_der_pol(5.0), torch.tensor([2.0, 0.0], dtype=F64)
    options = dict(solver="kvaerno5", rtol=1e-6, atol=1e-6)
    counts = [solve(f, y0, [0.0, 2.0], **options).stats.f_calls]
    with torch.no_grad():
        counts.append(solve(f, y0, [0.0, 2.0], **options).stats.f_calls)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["implicit_euler", "radau5", "sdirk2"])
def test_what_f_closes_over_gets_its_gradient_when_the_state_needs_none(name):
    rate = torch.tensor(3.0, dtype=F64, requires_grad=True)
    scaled = rate * 2

    def end(rate, scaled):
        f = lambda t, y: -scaled * y**2 + (rate if t > 0.45 else 0.0)
        return solve(f, torch.ones(1, dtype=F64), [0.0, 1.0], solver=name, dt=0.1,
                     controller=FixedSteps()).ys[-1].sum()  # fmt: skip

    (found,) = torch.autograd.grad(end(rate, scaled), rate)
    eps = 1e-6
    ahead, behind = (end(rate.detach() + s, 2 * (rate.detach() + s)) for s in (eps, -eps))
    assert found.item() == pytest.approx((ahead - behind).item() / (2 * eps), rel=1e-6)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_dense_output_carries_gradients(name):
    y0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)

    def between(y0):
        solution = solve(lambda t, y: -20 * y**3, y0, [0.0, 1.0], solver=name, dense=True,
                         controller=FixedSteps(), dt=0.25)  # fmt: skip
        return solution.interpolate([0.1, 0.6])

    assert torch.autograd.gradcheck(between, (y0,))


def test_an_option_of_another_kind_is_refused():
    with pytest.raises(ArgumentError, match="linear is"):
        ode_core.solvers.create("kvaerno5", linear=3)


def test_the_ends_of_a_step_are_evaluated_at_themselves():
    """0.3 + (0.9 - 0.3) is above 0.9 in float64, as for many pairs."""
    pairs = [(i / 10, j / 10) for i in range(40) for j in range(40)]
    assert any(t0 + (t1 - t0) > t1 for t0, t1 in pairs)
    assert all(node_time(t0, t1, 1.0) == t1 and node_time(t0, t1, 0.0) == t0 for t0, t1 in pairs)
