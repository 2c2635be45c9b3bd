"""What a finer solve changes is what the coarser one had wrong."""

from __future__ import annotations

import math

import pytest
import torch

from ode_core import ArgumentError, FixedSteps, check_convergence, solve, solvers
from ode_solvers.gradients.adjoint import Adjoint
from tests.problems import F64, Circle, oscillator

Y0 = torch.tensor([1.0, 0.0], dtype=F64)


def last(solution):
    return solution.ys[-1, 0]


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "tsit5"])
def test_the_change_is_as_large_as_the_error(solver, rtol):
    circle = Circle(0.5)
    t = torch.linspace(0, 3, 4, dtype=F64)
    options = {"solver": solver, "rtol": rtol, "atol": rtol}
    found = check_convergence(circle, circle.y0, t, **options)
    exact = torch.stack([circle.exact(x) for x in t.tolist()])
    error = (solve(circle, circle.y0, t, **options).ys - exact).norm(dim=1).max()
    relative = (error / exact.norm(dim=1).max()).item()
    assert relative / 10 < found.result < 10 * relative
    assert found.f_calls[0] < found.f_calls[1]
    assert found.loss is None
    assert found.gradient is None


def test_given_steps_are_halved_and_it_says_so():
    t = [0.0, 2.0]
    found = check_convergence(oscillator, Y0, t, solver="rk4", dt=0.25)
    error = (solve(oscillator, Y0, t, solver="rk4", dt=0.25).ys[-1, 0] - math.cos(2)).abs().item()
    assert error / 10 < found.result < 10 * error
    assert found.f_calls == (32, 64)
    assert str(found).startswith("With dt / 2 (64 calls of f for 32), the result by ")
    grid = FixedSteps([0.0, 0.5, 2.0])
    uneven = check_convergence(oscillator, Y0, t, solver="rk4", controller=grid)
    assert uneven.f_calls == (8, 16)
    assert "every step halved" in str(uneven)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_changes_of_loss_and_gradient_are_as_large_as_their_errors(gradient):
    """y' = -a b y; a is a leaf, b is not; loss y(1)^2 = exp(-2 a b) y0^2."""
    a = torch.tensor(1.5, dtype=F64, requires_grad=True)
    root = torch.tensor(1.0, dtype=F64, requires_grad=True)
    b = root * 2.0
    a.grad = torch.ones((), dtype=F64)
    y0 = torch.ones(1, dtype=F64)
    f = lambda t, y: -a * b * y
    loss = lambda s: s.ys[-1].square().sum()
    options = {"rtol": 1e-4, "atol": 1e-4, "gradient": gradient}
    found = check_convergence(f, y0, [0.0, 1.0], loss=loss, **options)
    start = y0.clone().requires_grad_()
    value = loss(solve(f, start, [0.0, 1.0], **options))
    grads = torch.stack([g.sum() for g in torch.autograd.grad(
        value, [start, a, root], retain_graph=True)])  # fmt: skip
    exact = math.exp(-6.0)
    true = exact * torch.tensor([2.0, -4.0, -6.0], dtype=F64)
    error = ((grads - true).norm() / true.norm()).item()
    assert error / 10 < found.gradient < 10 * error
    wrong = abs(value.item() - exact) / exact
    assert wrong / 10 < found.loss < 10 * wrong
    assert a.grad == 1.0
    assert root.grad is None
    assert y0.grad is None
    # The user's own graph is still there.
    b.backward()
    assert root.grad == 2.0


def test_a_loose_adjoint_shows_in_the_gradient_alone():
    loose = Adjoint(rtol=1e-1, atol=1e-1)
    options = {"rtol": 1e-9, "atol": 1e-9, "loss": last}
    found = check_convergence(oscillator, Y0, [0.0, 5.0], gradient=loose, **options)
    assert found.result < 1e-7
    assert found.loss < 1e-7
    assert found.gradient > 1e-2
    assert not found.converged
    assert "only the gradient" in str(found)
    assert "gradient='direct'" in str(found)
    exact = check_convergence(oscillator, Y0, [0.0, 5.0], **options)
    assert exact.gradient < 1e-7
    assert exact.converged
    assert "good enough" in str(exact)


def test_what_is_not_good_enough_says_what_to_solve_with():
    loose = check_convergence(oscillator, Y0, [0.0, 10.0], rtol=1e-2, atol=1e-2, factor=5)
    assert not loose.converged
    assert "not good enough: solve with rtol and atol / 5" in str(loose)
    assert check_convergence(
        oscillator, Y0, [0.0, 10.0], rtol=1e-2, atol=1e-2, allowed=1.0
    ).converged


def test_structured_states_and_tolerances():
    state = {"q": Y0[:1], "v": Y0[1:]}
    f = lambda t, s: {"q": s["v"], "v": -s["q"]}
    rtol = {"q": torch.tensor(1e-3), "v": torch.tensor(1e-4)}
    found = check_convergence(f, state, [0.0, 3.0], rtol=rtol, loss=lambda s: s.ys["q"][-1].sum())
    assert 0.0 < found.result < 1e-2
    assert 0.0 < found.gradient < 1e-2


def test_a_loss_without_a_gradient_has_none_to_compare():
    found = check_convergence(oscillator, Y0, [0.0, 1.0], loss=lambda s: s.ys.detach().sum())
    assert found.loss is not None
    assert found.gradient is None


def test_works_where_gradients_are_off():
    with torch.no_grad():
        assert check_convergence(oscillator, Y0, [0.0, 1.0], loss=last).gradient < 1e-3


def test_refusals():
    with pytest.raises(ArgumentError, match="larger than 1"):
        check_convergence(oscillator, Y0, [0.0, 1.0], factor=1.0)
    with pytest.raises(ArgumentError, match=r"0-d tensor; got shape \[2, 2\]"):
        check_convergence(oscillator, Y0, [0.0, 1.0], loss=lambda s: s.ys)
    with pytest.raises(ArgumentError, match="pass dt"):
        check_convergence(oscillator, Y0, [0.0, 1.0], solver=solvers.create("euler"))


def test_a_state_without_dimensions():
    one = torch.tensor(1.0, dtype=F64)
    assert 0.0 < check_convergence(lambda t, y: -y, one, [0.0, 1.0]).result < 1e-4


def test_what_solve_refuses_is_refused_in_its_words():
    with pytest.raises(ArgumentError, match="floating point or complex"):
        check_convergence(lambda t, y: -y, torch.tensor([1]), [0.0, 1.0], loss=lambda s: s.ys.sum())


def test_samples_with_steps_of_their_own_and_padded_times():
    y0 = torch.ones(2, 1, dtype=F64)
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, math.nan]], dtype=F64)
    found = check_convergence(
        lambda t, y: -y, y0, t, stepping="per_sample", loss=lambda s: s.ys[1].sum()
    )
    assert 0.0 < found.result < 1e-4
    assert 0.0 < found.gradient < 1e-4
    assert found.f_calls[0] < found.f_calls[1]


def test_a_solve_that_goes_on():
    state = solve(oscillator, Y0, [0.0, 1.0]).state
    found = check_convergence(oscillator, state, [1.0, 2.0], loss=last)
    assert 0.0 < found.result < 1e-3
    assert found.gradient is None
