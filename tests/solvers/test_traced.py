"""A solve with given steps inside torch.compile: one graph, no break, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.utils import _pytree as pytree

import ode_core
from ode_core import ArgumentError, FixedSteps
from ode_models import ODEBlock

TIMES = [0.0, 0.3, 1.0]
EXPLICIT = [
    name
    for name, record in ode_core.solvers.items()
    if not record.implicit and record.package == "ode-solvers"
]
# Their carries hold numbers that decide how a step is made.
LOOKING = ("adams_bashforth", "adams_moulton", "auto", "leapfrog")


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    torch._dynamo.reset()
    counters.clear()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, t, y):
        return torch.cos(t) * self.layers(y)


def swing(t, y):
    q, v = y
    return v, -q * (1.0 + 0.1 * t)


def coupled(t, y):
    return {"a": -y["b"].sum(0) * y["a"], "b": y["b"] * t}


def steps_for(name):
    """Return the settings for given steps of a solver."""
    adaptive = ode_core.solvers[name].adaptive
    return {"dt": 0.25, "controller": FixedSteps()} if adaptive else {"dt": 0.25}


def outcome(run, y, parameters):
    """Return what a function gives and its gradients with respect to `y` and the parameters."""
    y = y.clone().requires_grad_()
    out = pytree.tree_leaves(run(y))
    total = sum(part.square().sum() for part in out)
    return out, torch.autograd.grad(total, [y, *parameters])


def same_in_one_graph(run, y, parameters=()):
    """Assert that a function compiles to one graph, with the values and gradients that it has."""
    counting = CompileCounterWithBackend("aot_eager")
    program = torch.compile(run, backend=counting, fullgraph=True)
    found = outcome(program, y, parameters)
    again = outcome(program, y + 1.0, parameters)
    assert counting.frame_count == 1
    assert not counters["graph_break"]
    torch.testing.assert_close(found, outcome(run, y, parameters))
    torch.testing.assert_close(again, outcome(run, y + 1.0, parameters))


@pytest.mark.parametrize("name", [name for name in EXPLICIT if name not in LOOKING])
def test_every_explicit_method_is_one_graph(name):
    y = torch.randn(3, 2)
    if name == "velocity_verlet":
        return same_in_one_graph(
            lambda y: ode_core.solve(swing, (y, 2.0 * y), [0.0, 0.5], solver=name, dt=0.25).ys, y
        )
    net = Net()
    return same_in_one_graph(
        lambda y: ode_core.solve(net, y, [0.0, 0.5], solver=name, **steps_for(name)).ys,
        y,
        list(net.parameters()),
    )


@pytest.mark.parametrize(
    "solved",
    [
        lambda y: ode_core.solve(coupled, {"b": y[:2], "a": y}, TIMES, solver="rk4", dt=0.5).ys,
        lambda y: ode_core.solve(swing, (y, y), [1.0, 0.3, 0.0], solver="heun", dt=0.4).ys,
        lambda y: (
            ode_core.solve(
                lambda t, y, a: -a * y, y, TIMES, solver="rk4", dt=0.5, args=(y.exp(),)
            ).ys
        ),
        lambda y: (
            ode_core.solve(
                lambda t, y: y * (t < 0.4), y, TIMES, solver="rk4", dt=0.5, jump_times=[0.4]
            ).ys
        ),
        lambda y: (
            ode_core.solve(
                lambda t, y: -y, y, TIMES, solver="dopri5", controller=FixedSteps([0.0, 0.8, 1.0])
            ).ys
        ),
        lambda y: ode_core.solve(lambda t, y: -y, y.bfloat16(), TIMES, solver="heun", dt=0.5).ys,
    ],
    ids=["dict", "tuple-backwards", "args", "jump", "grid", "16-bit"],
)
def test_every_form_of_problem_is_one_graph(solved):
    same_in_one_graph(solved, torch.randn(3, 2))


def test_a_block_trains_in_one_graph_and_says_what_it_cost():
    block = ODEBlock(Net(), (0.0, 1.0), solver="rk4", dt=0.5)
    same_in_one_graph(block, torch.randn(3, 2), list(block.parameters()))
    assert block.stats is not None
    assert (block.stats.f_calls, block.stats.accepted) == (8, 2)


def test_the_whole_solution_comes_out_of_a_program():
    def solved(y):
        return ode_core.solve(lambda t, y: -y, y, TIMES, solver="rk4", dt=0.25, dense=True)

    y = torch.ones(2)
    solution = torch.compile(solved, backend="eager", fullgraph=True)(y)
    plain = solved(y)
    assert solution.stats == plain.stats
    assert solution.status is plain.status
    assert torch.equal(solution.ts, plain.ts)
    torch.testing.assert_close(solution.interpolate(0.7), plain.interpolate(0.7))
    torch.testing.assert_close(solution.state.y, plain.state.y)


def test_inductor_makes_the_same_numbers():
    net = Net()

    def solved(y):
        return ode_core.solve(net, y, [0.0, 1.0], solver="midpoint", dt=0.5).ys

    parameters, y = list(net.parameters()), torch.randn(3, 2)
    program = torch.compile(solved, fullgraph=True)
    torch.testing.assert_close(outcome(program, y, parameters), outcome(solved, y, parameters))


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "dopri5"},
        {"solver": "leapfrog", "dt": 0.25},
        {"solver": "trapezoid", "dt": 0.25},
        {"solver": "rk4", "dt": 0.25, "gradient": "adjoint"},
        {"solver": "rk4", "dt": 0.25, "stepping": "per_sample"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_looks_at_values_is_refused_in_one_graph_and_else_solved_beside_it(settings):
    def solved(y):
        return 2.0 * ode_core.solve(lambda t, y: -y, 3.0 * y, TIMES, **settings).ys

    y = torch.ones(2, 1)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"takes given steps .*list of floats"):
        torch.compile(solved, backend="eager", fullgraph=True)(y)
    torch._dynamo.reset()
    counting = CompileCounterWithBackend("eager")
    assert torch.equal(torch.compile(solved, backend=counting)(y), solved(y))
    assert counting.op_count <= 2, "nothing of the solve is compiled"
    assert sum(counters["graph_break"].values()) <= 6


def test_times_in_a_tensor_are_values_too():
    def solved(y, t):
        return ode_core.solve(lambda t, y: -y, y, t, solver="rk4", dt=0.5).ys

    with pytest.raises(torch._dynamo.exc.Unsupported, match="times as a list of floats"):
        torch.compile(solved, backend="eager", fullgraph=True)(torch.ones(2), torch.tensor(TIMES))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"solver": "rk5", "dt": 0.5}, "no solver is named 'rk5'; did you mean 'rk4'"),
        ({"solver": "rk4"}, "rk4 takes fixed steps: pass dt"),
    ],
)
def test_a_bad_argument_is_named_while_the_program_is_made(settings, sentence):
    def solved(y):
        return ode_core.solve(lambda t, y: -y, y, TIMES, **settings).ys

    with pytest.raises(torch._dynamo.exc.Unsupported, match=sentence):
        torch.compile(solved, backend="eager", fullgraph=True)(torch.ones(2))
    torch._dynamo.reset()
    with pytest.raises((ArgumentError, LookupError), match=sentence):
        torch.compile(solved, backend="eager")(torch.ones(2))
