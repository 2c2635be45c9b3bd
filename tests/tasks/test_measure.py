"""Memory against hand counts, evaluations, and the solver's own error."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import ode_core
from ode_solvers import Adjoint
from ode_tasks import measure

FLOAT = 4


class Block(nn.Module):
    def __init__(self, field, t=(0.0, 1.0), **options):
        super().__init__()
        self.field, self.t, self.options, self.stats = field, t, options, None

    def forward(self, y0):
        solution = ode_core.solve(self.field, y0, self.t, **self.options)
        self.stats = solution.stats
        return solution.ys[-1]


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0))

    def forward(self, t, y):
        return -self.rate * y


def test_held_bytes_of_a_network_equal_a_count_by_hand():
    # The first layer keeps the input (left out), tanh keeps its result, 7x5, which the second layer
    # keeps as its input too (one storage), and the square keeps the outcome, 7x2. Weights are left
    # out, though the second layer keeps its own.
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(7, 3)
    held = measure.held_bytes(lambda: network(x).square().sum(), [x, *network.parameters()])
    assert held == (7 * 5 + 7 * 2) * FLOAT


def test_held_bytes_count_what_is_not_left_out():
    layer = nn.Linear(3, 5, bias=False)
    x = torch.randn(7, 3)
    assert measure.held_bytes(lambda: layer(x)) == 7 * 3 * FLOAT
    wanted = x.clone().requires_grad_()
    assert measure.held_bytes(lambda: layer(wanted)) == (7 * 3 + 3 * 5) * FLOAT


def test_views_of_one_storage_count_once_and_whole():
    x = torch.ones(10, requires_grad=True)
    whole = x.exp()  # keeps its result
    assert measure.held_bytes(lambda: x.exp()[:5].square().sum()) == 10 * FLOAT
    assert whole.untyped_storage().nbytes() == 10 * FLOAT


def test_a_graph_that_forward_dropped_is_not_held():
    x = torch.ones(10, requires_grad=True)

    def forward():
        x.exp().sin()  # its graph dies here
        return x.sum()

    assert measure.held_bytes(forward) == 0


@pytest.mark.parametrize(("gradient", "grows"), [("direct", True), (Adjoint(anchors=0), False)])
def test_memory_grows_with_the_steps_of_direct_only(gradient, grows):
    y0 = torch.randn(8, 4)

    def held(dt):
        block = Block(Decay(), solver="euler", gradient=gradient, dt=dt)
        return measure.memory(block, lambda: block(y0).sum(), [y0]).bytes

    one, four = held(1.0), held(0.25)
    assert (four > 2 * one) if grows else (four == one)


def test_the_adjoint_holds_the_two_states_of_a_block():
    y0 = torch.randn(8, 4)
    block = Block(Decay(), solver="euler", gradient="adjoint", dt=0.5)
    memory = measure.memory(block, lambda: block(y0).sum(), [y0])
    assert memory == (2 * 8 * 4 * FLOAT, measure.HELD)


def test_memory_leaves_the_gradients_alone():
    layer = nn.Linear(2, 2)
    measure.memory(layer, lambda: layer(torch.ones(1, 2)).sum(), [])
    assert layer.weight.grad is None


@pytest.mark.parametrize(("solver", "calls"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_one_step_costs_its_stages_forwards_and_backwards(solver, calls):
    model = nn.Sequential(
        nn.Linear(4, 4), Block(Decay(), solver=solver, gradient="adjoint", dt=1.0)
    )
    assert measure.evaluations(model) is None
    loss = model(torch.randn(3, 4)).sum()
    assert measure.evaluations(model) == (calls, 0)
    loss.backward()
    assert measure.evaluations(model) == (calls, calls)


def test_evaluations_of_several_blocks_add_up():
    blocks = [Block(Decay(), solver=name, dt=1.0) for name in ("euler", "rk4")]
    model = nn.Sequential(*blocks)
    model(torch.ones(1, 1))
    assert measure.evaluations(model) == (5, 0)


def test_the_solver_error_is_that_of_the_block_and_not_of_what_follows():
    block = Block(Decay(), solver="euler", dt=1.0)
    model = nn.Sequential(block, nn.Linear(3, 2))
    x = torch.rand(5, 3) + 1
    model(x)
    # One step of Euler goes to 0, the solution to y0 / e.
    assert measure.solver_error(model, x) == pytest.approx(1.0, rel=1e-6)


def test_the_solver_error_shrinks_with_the_order():
    x = torch.rand(5, 3) + 1
    errors = []
    for solver in ("euler", "midpoint", "rk4"):
        block = Block(Decay(), solver=solver, dt=0.25)
        block(x)
        errors.append(measure.solver_error(block, x))
    assert errors[0] > 10 * errors[1] > 100 * errors[2] > 0


def test_the_solver_error_of_a_model_without_a_solve_is_none():
    assert measure.solver_error(nn.Linear(2, 2), torch.ones(1, 2)) is None


class Square(nn.Module):
    def forward(self, t, y):
        return y * y


def test_the_solver_error_is_nan_where_the_exact_solution_blows_up():
    block = Block(Square(), solver="euler", dt=1.0)
    x = torch.full((1,), 2.0)  # y = 2 / (1 - 2 t)
    block(x)
    assert math.isnan(measure.solver_error(block, x))


def test_the_solver_error_leaves_model_and_hooks_as_they_were():
    block = Block(Decay(), solver="euler", dt=1.0).train()
    block(torch.ones(2))
    measure.solver_error(block, torch.ones(2))
    assert block.training
    assert not block._forward_hooks
    assert block.field.rate.dtype == torch.float32


def test_relative_rms():
    exact = torch.tensor([3.0, 4.0])
    assert measure.relative_rms(exact * 1.1, exact) == pytest.approx(0.1, rel=1e-5)
    assert measure.relative_rms(torch.zeros(2), torch.zeros(2)) == 0


def test_timed_reads_the_seconds_of_its_body():
    with measure.timed(torch.device("cpu")) as timer:
        sum(range(10_000))
    assert timer.seconds > 0


def test_versions_leave_out_what_is_not_installed():
    found = measure.versions(["ode-core", "no-such-distribution"])
    assert found["torch"] == torch.__version__
    assert "ode-core" in found
    assert "no-such-distribution" not in found


def test_checkpoint_holds_a_state_a_step():
    y0 = torch.randn(8, 4)
    block = Block(Decay(), solver="euler", gradient="checkpoint", dt=0.25)
    memory = measure.memory(block, lambda: block(y0).sum(), [y0])
    assert memory == (4 * 8 * 4 * FLOAT, measure.HELD)


def test_the_commit_is_that_of_this_checkout_and_none_of_an_installed_copy(monkeypatch, tmp_path):
    found = measure.commit()
    checkout = (Path(__file__).parents[2] / ".git").exists()
    assert (found is not None) == checkout
    copy = tmp_path / "measure.py"
    copy.write_text("")
    monkeypatch.setattr(measure, "__file__", str(copy))
    assert measure.commit() is None
