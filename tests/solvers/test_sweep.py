"""The sums of a recorded step: their gradients in one pass a slope are those of plain autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ode_core
from ode_core import solve
from ode_solvers.kernels import native
from tests.problems import F64

pytestmark = pytest.mark.skipif(not native.available(), reason="needs a C compiler")


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(native, "_SWEPT", 0)


class Late(nn.Module):
    """The second layer takes part from t = 0.5 on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()

    def forward(self, t, y):
        late = self.second(y).tanh() if t >= 0.5 else 0.0
        return self.first(y).tanh() * torch.cos(t) + late


def solved(kernel, name="dopri5", times=(0.0, 0.3, 1.0), **options):
    f, y0 = Late(), torch.linspace(-1, 1, 6, dtype=F64).view(2, 3).requires_grad_()
    solver = ode_core.solvers.create(name, kernel=kernel)
    options = options or {"rtol": 1e-6, "atol": 1e-6, "jump_times": [0.5]}
    return [y0, *f.parameters()], solve(f, y0, list(times), solver=solver, **options)


def close(found, wanted):
    return all(
        (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-11, atol=1e-13))
        for a, b in zip(found, wanted, strict=True)
    )


def both(measure, name="dopri5", **options):
    found = [measure(*solved(kernel, name, **options)) for kernel in ("native", "cpu")]
    return close(*found)


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3", "dopri8", "adaptive_heun"])
def test_gradients_of_an_adaptive_solve(name):
    def measure(inputs, solution):
        return torch.autograd.grad(solution.ys.square().sum(), inputs)

    assert both(measure, name)


@pytest.mark.parametrize("name", ["euler", "midpoint", "ralston", "rk4", "rk4_38"])
def test_gradients_of_given_steps(name):
    def measure(inputs, solution):
        return torch.autograd.grad(solution.ys.square().sum(), inputs)

    assert both(measure, name, dt=0.17)


def test_nodes_are_there_and_keep_no_tensor():
    kept = []

    def pack(x):
        kept.append(x)
        return x

    f = torch.nn.Parameter(torch.tensor(0.3, dtype=F64))
    solver = ode_core.solvers.create("dopri5", kernel="native")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ys = solve(lambda t, y: y + f, torch.ones(5, dtype=F64), [0.0, 1.0], solver=solver).ys
    assert "_Sum" in str(ys.grad_fn.next_functions)
    assert kept == []


def test_only_a_state_between_the_steps_counts():
    """The last sum of its step then has no gradient."""

    def measure(inputs, solution):
        return torch.autograd.grad(solution.ys[1].square().sum(), inputs)

    assert both(measure)


def test_one_graph_goes_back_more_than_once():
    def measure(inputs, solution):
        first = torch.autograd.grad(solution.ys[1].sum(), inputs, retain_graph=True)
        second = torch.autograd.grad(solution.ys[2].square().sum(), inputs, retain_graph=True)
        return (*first, *second, *torch.autograd.grad(solution.ys[1].sum(), inputs))

    assert both(measure)


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_gradients_of_one_input_alone(wanted):
    def measure(inputs, solution):
        return torch.autograd.grad(solution.ys.square().sum(), inputs[wanted])

    assert both(measure)


def test_second_derivatives():
    def measure(inputs, solution):
        first = torch.autograd.grad(solution.ys.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    assert both(measure)


def test_a_field_that_forgets_the_state_or_is_constant():
    fields = (lambda t, y, w: torch.zeros_like(y) + t, lambda t, y, w: y.detach() + w)
    for f in (*fields, lambda t, y, w: -y):
        grads = []
        for kernel in ("native", "cpu"):
            w = torch.ones(4, dtype=F64, requires_grad=True)
            y0 = torch.ones(4, dtype=F64, requires_grad=True)
            solver = ode_core.solvers.create("rk4", kernel=kernel)
            ys = solve(f, y0, [0.0, 1.0], solver=solver, dt=0.3, args=(w,)).ys
            grads.append(torch.autograd.grad(ys.square().sum(), [y0, w], allow_unused=True))
        assert close(*grads)


@pytest.mark.parametrize("name", ["dopri5", "rk4"])
def test_gradcheck(name):
    f = Late()
    options = {"dt": 0.25} if name == "rk4" else {"rtol": 1e-9, "atol": 1e-9}
    options["jump_times"] = [0.5]

    def run(y0, *parameters):
        named = dict(zip([n for n, _ in f.named_parameters()], parameters, strict=True))
        field = lambda t, y: torch.func.functional_call(f, named, (t, y))
        return solve(field, y0, [0.0, 0.4, 1.0], solver=name, **options).ys

    y0 = torch.tensor([[0.3, -0.2, 0.7]], dtype=F64, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in f.parameters()]
    assert torch.autograd.gradcheck(run, (y0, *parameters))
    if name == "rk4":
        assert torch.autograd.gradgradcheck(run, (y0, *parameters))
