"""Steady states, and their implicit gradients, where both are known in closed form."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from ode_core import ArgumentError, SolveError, UnsupportedError, steady_state
from ode_core.krylov import gmres
from ode_core.roots import DENSE_UP_TO, newton
from tests.problems import F64, van_der_pol


def stable(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, n, dtype=F64, generator=generator) / n**0.5
    return 0.4 * noise - torch.eye(n, dtype=F64)


@pytest.mark.parametrize("n", [1, 5, DENSE_UP_TO + 1])
@pytest.mark.parametrize("polish", [True, False])
def test_a_linear_system_settles_at_its_solution(n, polish):
    a, b = stable(n).requires_grad_(), torch.linspace(1, 2, n, dtype=F64).requires_grad_()
    y0 = torch.zeros(n, dtype=F64, requires_grad=True)
    found = steady_state(lambda t, y: a @ y + b, y0, polish=polish, rtol=1e-8, atol=1e-10)
    exact = -torch.linalg.solve(a, b)
    assert torch.allclose(found.y, exact, rtol=1e-12 if polish else 1e-6)
    assert found.polished is polish
    assert found.rate < (1e-12 if polish else 1e-6)
    weights = torch.linspace(-1, 3, n, dtype=F64)
    ours = torch.autograd.grad(found.y @ weights, (a, b, y0))
    theirs = torch.autograd.grad(exact @ weights, (a, b))
    for one, other in zip(ours, theirs, strict=False):
        assert torch.allclose(one, other, rtol=1e-8 if polish else 1e-5, atol=1e-9)
    assert not ours[2].any()


def reaction(t, y, k):
    """A -> B -> A with a square in it: A + B is kept in the feed, B leaves."""
    a, b = y
    return torch.stack([k[0] - k[1] * a * a, k[1] * a * a - k[2] * b])


def test_a_reaction_and_gradcheck_through_args():
    k = torch.tensor([2.0, 0.5, 3.0], dtype=F64, requires_grad=True)
    y0 = torch.tensor([0.1, 0.1], dtype=F64)
    settled = lambda k: steady_state(reaction, y0, args=(k,)).y
    assert torch.allclose(settled(k), torch.stack([(k[0] / k[1]).sqrt(), k[0] / k[2]]))
    assert torch.autograd.gradcheck(settled, (k,))


@pytest.mark.parametrize("start", [1e-4, 0.3, 5.0])
def test_logistic_growth_settles_at_the_capacity_from_wherever_it_starts(start):
    capacity = torch.tensor(3.0, dtype=F64, requires_grad=True)
    y0 = torch.full((), start, dtype=F64)
    found = steady_state(lambda t, y: y * (1 - y / capacity), y0)
    assert found.y.item() == pytest.approx(3.0, rel=1e-12)
    assert torch.autograd.grad(found.y, capacity)[0].item() == pytest.approx(1.0)


def test_a_row_that_is_late_is_waited_for():
    y0 = torch.tensor([[1.0], [1e-4], [2.0]], dtype=F64)
    assert torch.allclose(steady_state(lambda t, y: y * (1 - y), y0).y, torch.ones(3, 1, dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deep_equilibrium_layer_is_trained_through(dtype):
    """y* = tanh(W y* + x) for a batch of 512 unknowns; gradients equal those of unrolling."""
    layer = torch.nn.Linear(8, 8).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(0.8)
    x = torch.randn(64, 8, dtype=dtype)
    calls = []

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, t, y):
            calls.append(1)
            return torch.tanh(self.layer(y) + x) - y

    found = steady_state(Field(), torch.zeros(64, 8, dtype=dtype))
    assert found.f_calls == len(calls)
    y = torch.zeros(64, 8, dtype=dtype)
    for _ in range(200):
        y = torch.tanh(layer(y) + x)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    assert torch.allclose(found.y, y, atol=tolerance)
    before = len(calls)
    ours = torch.autograd.grad(found.y.square().sum(), list(layer.parameters()))
    assert len(calls) == before + 1
    theirs = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=100 * tolerance, atol=100 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rest_at_zero_and_stiff_rest_are_found_through_the_solvers_own_noise(dtype):
    """Explicit steps hover about a stable state by as much as their tolerance lets them."""
    assert steady_state(lambda t, y: -y, torch.ones(2, dtype=dtype)).y.abs().max() < 1e-6
    f = lambda t, y: torch.stack([-100 * (y[0] - y[1]), 1 - y[1]])
    found = steady_state(f, torch.zeros(2, dtype=dtype))
    assert torch.allclose(found.y, torch.ones(2, dtype=dtype), atol=1e-6)
    assert found.t < 200.0


def test_what_f_closes_over_need_be_no_leaf():
    root = torch.tensor(2.0, dtype=F64, requires_grad=True)
    target = root**2
    found = steady_state(lambda t, y: target - y, torch.zeros(1, dtype=F64))
    assert torch.autograd.grad(found.y.sum(), root)[0].item() == pytest.approx(4.0)


def test_structured_and_complex_states():
    rate = torch.tensor(0.5 + 2.0j, dtype=torch.complex128, requires_grad=True)
    f = lambda t, s: {"z": 1.0 - rate * s["z"], "w": s["z"] - s["w"]}
    start = {"z": torch.zeros(2, dtype=torch.complex128), "w": torch.zeros(1, 2, dtype=rate.dtype)}
    f_rows = lambda t, s: {k: v.reshape(start[k].shape) for k, v in f(t, s).items()}
    found = steady_state(f_rows, start)
    assert torch.allclose(found.y["w"], (1 / rate).expand(1, 2))
    loss = lambda y: (y.real + 3 * y.imag).sum()
    ours = torch.autograd.grad(loss(found.y["w"]), rate)[0]
    theirs = torch.autograd.grad(2 * loss(1 / rate), rate)[0]
    assert torch.allclose(ours, theirs)


def test_nothing_of_the_way_is_kept():
    seen = []

    def f(t, y):
        seen.append(weakref.ref(y))
        return scale * (1 - y)

    scale = torch.ones(1, dtype=F64, requires_grad=True)
    found = steady_state(f, torch.zeros(7, dtype=F64))
    gc.collect()
    assert found.y.requires_grad
    assert sum(ref() is not None for ref in seen) <= 2
    assert len(seen) > 50


def test_an_oscillation_is_said_to_be_none():
    with pytest.raises(SolveError) as caught:
        steady_state(van_der_pol(1.0), torch.tensor([1.0, 0.0], dtype=F64), t_max=50.0)
    assert "no steady state by t_max = 50: f still changes the state by" in str(caught.value)
    assert caught.value.solution.ts[-1] == 50.0


def test_growth_is_said_to_be_none():
    with pytest.raises(SolveError):
        steady_state(lambda t, y: y * y, torch.ones(1, dtype=F64))


def test_newton_gives_way_where_it_cannot_be_trusted():
    """Nothing moves along the second axis: the Jacobian is singular, the integration goes on."""
    f = lambda t, y: torch.stack([3.0 - y[0], 0.0 * y[1]])
    found = steady_state(f, torch.zeros(2, dtype=F64), tolerance=1e-6, rtol=1e-8, atol=1e-9)
    assert not found.polished
    assert found.y[0].item() == pytest.approx(3.0, rel=1e-5)


def test_newton_takes_no_step_that_does_not_help():
    """From 3, full steps for atan(x) = 0 run away; from 0.5 they arrive."""
    size = lambda x, residual: residual.abs().max().item()
    away = torch.tensor([3.0], dtype=F64)
    assert torch.equal(newton(torch.atan, away, size)[0], away)
    assert newton(torch.atan, torch.tensor([0.5], dtype=F64), size)[0].abs() < 1e-15


@pytest.mark.parametrize("n", [3, DENSE_UP_TO + 1])
def test_what_moves_not_at_all_is_at_rest_at_once(n):
    y0 = torch.ones(n, dtype=F64)
    found = steady_state(lambda t, y: torch.zeros_like(y), y0)
    assert torch.equal(found.y, y0)
    assert found.t == 0.0
    with pytest.raises(SolveError, match="no steady state"):
        steady_state(lambda t, y: torch.ones_like(y), y0, t_max=10.0)


def test_an_f_that_drifts_below_the_first_goal_is_followed_further():
    """y' = 5e-4 whatever y is: slow enough for Newton to be tried, which finds no root."""
    for n in (3, DENSE_UP_TO + 1):
        y0 = torch.ones(n, dtype=F64)
        with pytest.raises(SolveError, match="no steady state"):
            steady_state(lambda t, y: torch.full_like(y, 5e-4), y0, t_max=10.0)


def test_a_singular_jacobian_is_said_so_in_the_backward_pass():
    """Nothing moves along the second axis: the steady state is not isolated."""
    push = torch.ones(1, dtype=F64, requires_grad=True)
    f = lambda t, y: torch.stack([push[0] - y[0], 0.0 * y[1]])
    found = steady_state(f, torch.zeros(2, dtype=F64), tolerance=1e-6)
    with pytest.raises(SolveError, match="may not be isolated"):
        found.y.sum().backward()


def test_a_second_derivative_is_refused():
    a = torch.ones(1, dtype=F64, requires_grad=True)
    found = steady_state(lambda t, y: a - y, torch.zeros(1, dtype=F64))
    with pytest.raises(UnsupportedError, match="create_graph"):
        torch.autograd.grad(found.y.sum(), a, create_graph=True)


def test_without_gradients_and_without_entries():
    with torch.no_grad():
        y0 = torch.zeros(1, requires_grad=True)
        assert not steady_state(lambda t, y: 1 - y, y0).y.requires_grad
    assert steady_state(lambda t, y: -y, torch.zeros(0, 3)).y.shape == (0, 3)


def test_refusals():
    y0 = torch.ones(1)
    with pytest.raises(ArgumentError, match="adaptive solver, such as 'dopri5'; got euler"):
        steady_state(lambda t, y: -y, y0, solver="euler")
    with pytest.raises(ArgumentError, match="float32 or wider"):
        steady_state(lambda t, y: -y, y0.half())
    with pytest.raises(ArgumentError, match="t_max is later"):
        steady_state(lambda t, y: -y, y0, t0=1.0, t_max=1.0)
    with pytest.raises(ArgumentError, match="tolerance is a positive"):
        steady_state(lambda t, y: -y, y0, tolerance=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gmres_solves_what_needs_several_cycles(dtype):
    a = (torch.eye(150, dtype=F64) * torch.linspace(1, 60, 150, dtype=F64) + stable(150)).to(dtype)
    b = torch.linspace(-1, 1, 150, dtype=dtype)
    accuracy = torch.finfo(dtype).eps ** (2 / 3)
    x, left = gmres(lambda v: a @ v, b, rtol=accuracy)
    assert left <= accuracy
    assert ((a @ x - b).norm() / b.norm()).item() == pytest.approx(left, rel=0.1)
    assert gmres(lambda v: a @ v, torch.zeros_like(b), rtol=accuracy)[1] == 0.0
    singular = lambda v: torch.cat([v[:1], torch.zeros_like(v[1:])])
    assert gmres(singular, b, rtol=accuracy)[1] > 0.1
