"""Gradients held against those by `direct`, and what is said where they differ."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import nn

from ode_core import (
    ArgumentError,
    Event,
    GradientWarning,
    UnsupportedError,
    Verified,
    gradients,
    solve,
)
from ode_models import ODEBlock
from ode_solvers import Adjoint, Checkpoint

EULER = {"solver": "euler", "dt": 1.0}


def field(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4)).double()


def start():
    return torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def end(net, y0, gradient, **options):
    return solve(lambda t, y: net(y), y0, [0.0, 1.0], gradient=gradient, **options).ys[-1]


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_one_step_of_euler_shows_what_the_adjoint_is_off_by():
    net = field()
    y = end(net, start(), Adjoint(anchors=0), verify=True, **EULER)
    with pytest.warns(GradientWarning, match="'adjoint' through euler") as caught:
        y.square().sum().backward()
    (text,) = (str(w.message) for w in caught)
    said = float(re.search(r"by ([\d.]+) \(relative", text).group(1))
    adjoint = [p.grad for p in net.parameters()]
    exact = torch.autograd.grad(
        end(net, start(), "direct", **EULER).square().sum(), list(net.parameters())
    )
    errors = [float((a - e).norm() / e.norm()) for a, e in zip(adjoint, exact, strict=True)]
    assert said > 0.3
    assert said == pytest.approx(max(errors), rel=1e-2)
    assert "checkpoint" in text
    assert "net." in text


@pytest.mark.parametrize("method", ["checkpoint", "symplectic", Checkpoint(states=2)])
@pytest.mark.parametrize("options", [EULER, {"rtol": 1e-4, "atol": 1e-4}])
def test_exact_methods_say_nothing_and_are_not_changed(quiet, method, options):
    net, y0 = field(), start().requires_grad_()
    found = []
    for verify in (False, True):
        y = end(net, y0, method, verify=verify, **options)
        found.append(torch.autograd.grad(y.square().sum(), [y0, *net.parameters()]))
    for plain, verified in zip(*found, strict=True):
        assert torch.equal(plain, verified)


def test_only_the_first_calls_are_verified():
    net, method = field(), Verified(Adjoint(anchors=0), calls=2)
    seen = []
    for _ in range(4):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            end(net, start(), method, **EULER).square().sum().backward()
        seen.append(sum(w.category is GradientWarning for w in caught))
    assert seen == [1, 1, 0, 0]


def test_a_solve_without_a_backward_pass_is_no_call():
    net, method = field(), Verified("adjoint")
    with torch.no_grad():
        end(net, start(), method, **EULER)
    end(net, start(), method, **EULER)
    assert method.count.done == 0


def test_a_lost_gradient_is_an_error_of_one(recwarn):
    class Lossy:
        """Detaches one parameter's gradient: it gives y0's alone."""

        name, exact = "lossy", False

        def check(self, problem, plan):
            pass

        def solve(self, problem, plan):
            trajectory = gradients.create("direct").solve(problem, plan)
            shift = trajectory.ys.detach() - problem.y0.detach()
            trajectory.ys = problem.y0 + shift
            return trajectory

    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    y = solve(lambda t, y: rate * y.detach(), y0, [0.0, 1.0], gradient=Verified(Lossy())).ys[-1]
    y.sum().backward()
    (text,) = [str(w.message) for w in recwarn if w.category is GradientWarning]
    assert "by 1 " in text
    assert "'rate'" in text


def test_states_with_a_graph_and_shared_tensors_are_counted_once(quiet):
    """The start and a hypernetwork's matrix both depend on a tensor that f uses, too."""
    weight = torch.tensor([[0.1, 0.4], [-0.7, 0.2]], dtype=torch.float64, requires_grad=True)

    def loss(gradient):
        made = weight.sin() @ weight
        f = lambda t, y: (made @ y["a"] + weight @ y["a"].tanh(), y["b"] * made.sum())
        g = lambda t, y: dict(zip("ab", f(t, y), strict=True))
        start = {"a": weight.sum(1), "b": weight[0] * 2.0}
        ys = solve(g, start, [0.0, 0.5, 1.0], gradient=gradient).ys
        return (ys["a"].square() * ys["b"]).sum()

    method = Verified("checkpoint", limit=1e-9)
    found = torch.autograd.grad(loss(method), weight)[0]
    exact = torch.autograd.grad(loss("direct"), weight)[0]
    assert method.count.done == 1
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("method", ["checkpoint", "symplectic"])
def test_events_that_reset_and_tuples(quiet, method):
    gravity = torch.tensor(9.8, dtype=torch.float64, requires_grad=True)
    verified = Verified(method, calls=10, limit=1e-6)

    def loss(gradient):
        start = (torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
        bounce = Event(lambda t, y: y[0], reset=lambda t, y: (y[0].abs(), -0.8 * y[1]))
        f = lambda t, y: (y[1], -gravity + 0.0 * y[0])
        ys = solve(f, start, [0.0, 0.3, 0.7], gradient=gradient, event=bounce).ys
        return ys[0][-1] + ys[1].sum()

    found = torch.autograd.grad(loss(verified), gravity)[0]
    exact = torch.autograd.grad(loss("direct"), gravity)[0]
    assert verified.count.done == 2
    torch.testing.assert_close(found, exact)


def test_samples_with_their_own_steps(quiet):
    net, y0 = field(), start().requires_grad_()
    method = Verified("checkpoint", limit=1e-6)
    y = end(net, y0, method, stepping="per_sample")
    y.square().sum().backward()
    assert method.count.done == 1


def test_evaluations_are_those_of_the_method_alone():
    net = field()
    counts = []
    for verify in (False, True):
        f = lambda t, y: net(y)
        solution = solve(f, start(), [0.0, 1.0], gradient="checkpoint", verify=verify)
        solution.ys[-1].sum().backward()
        counts.append((solution.stats.f_calls, solution.stats.backward_f_calls))
    assert counts[0] == counts[1]


def test_second_derivatives_pass(quiet):
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    y = solve(lambda t, y: rate * y, y0, [0.0, 1.0], gradient="checkpoint", verify=True).ys[-1]
    (first,) = torch.autograd.grad(y.sum(), rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    assert second.item() == pytest.approx(torch.tensor(0.3).exp().item(), rel=1e-4)


def test_gradients_of_times_pass(quiet):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    for name in ("checkpoint", "adjoint"):
        y = solve(lambda t, y: rate * y, y0, t, gradient=name, verify=True).ys[-1]
        (found,) = torch.autograd.grad(y.sum(), t)
        assert found[1].item() == pytest.approx(0.3 * torch.tensor(0.3).exp().item(), rel=1e-4)


def test_a_block_verifies_its_first_call():
    block = ODEBlock(_Autonomous(field()), gradient=Adjoint(anchors=0), verify=True, **EULER)
    assert "verify=True" in repr(block)
    with pytest.warns(GradientWarning):
        block(start()).square().sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block(start()).square().sum().backward()


class _Autonomous(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, y):
        return self.net(y)


def test_what_has_no_effect_is_refused():
    f, y0 = lambda t, y: -y, torch.ones(1, requires_grad=True)
    with pytest.raises(ArgumentError, match="is that itself"):
        solve(f, y0, [0.0, 1.0], verify=True)
    with pytest.raises(ArgumentError, match="is that itself"):
        ODEBlock(f, verify=True)
    with pytest.raises(ArgumentError, match="verified already"):
        solve(f, y0, [0.0, 1.0], gradient=Verified("adjoint"), verify=True)
    with pytest.raises(ArgumentError, match="calls"):
        Verified("adjoint", calls=0)
    with pytest.raises(ArgumentError, match="limit"):
        Verified("adjoint", limit=0.0)
    with pytest.raises(UnsupportedError, match="outside of torch"):
        solve(f, y0, [0.0, 1.0], gradient="adjoint", solver="scipy_lsoda", verify=True)
