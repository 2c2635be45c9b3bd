"""Reversible and mechanical methods: what they conserve, take back, and refuse."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, solve
from tests.problems import F64, Circle, lotka_volterra
from tests.solvers.rows import alone, march, ragged

REVERSIBLE = ["alf", "reversible_heun"]
TWO_STEP = ["leapfrog", *REVERSIBLE]


def pendulum(t, y):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)


def swing(t, pair):
    return pair[1], -torch.sin(pair[0])


def timed(t, y):
    """Time and every entry take part; rows are samples."""
    turn = torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)
    return turn + torch.cos(t)[..., None] * y


@pytest.mark.parametrize("name", REVERSIBLE)
def test_a_hundred_steps_are_taken_back_to_round_off(name):
    solver = ode_core.solvers.create(name)
    start = torch.tensor([1.0, 1.2], dtype=F64)
    f = lotka_volterra
    times = [0.03 * i + 0.01 * math.sin(i) for i in range(101)]
    first = carry = solver.init(f, times[0], start)
    y = start
    for t0, t1 in itertools.pairwise(times):
        step = solver.step(f, t0, t1, y, carry, None)
        y, carry = step.y, step.carry
    assert (y - start).abs().max() > 0.1
    for t0, t1 in zip(times[-2::-1], times[:0:-1], strict=True):
        y, carry = solver.reverse(f, t0, t1, y, carry)
    assert (y - start).abs().max() < 1e-10
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(carry, first, strict=True))


@pytest.mark.parametrize("name", REVERSIBLE)
def test_rows_are_taken_back_each_over_its_own_times(name):
    solver = ode_core.solvers.create(name)
    start = torch.tensor([[1.0, 0.3], [0.2, -0.7], [2.0, 0.1]], dtype=F64)
    grids = ragged()
    y, carry = march(solver, timed, start, grids)
    for i in reversed(range(grids.shape[1] - 1)):
        y, carry = solver.reverse(timed, grids[:, i], grids[:, i + 1], y, carry)
    assert (y - start).abs().max() < 1e-12


@pytest.mark.parametrize("name", TWO_STEP)
def test_a_row_in_a_batch_is_the_row_alone(name):
    solver = ode_core.solvers.create(name)
    start = torch.tensor([[1.0, 0.3], [0.2, -0.7], [2.0, 0.1]], dtype=F64)
    f = lambda t, y: timed(torch.as_tensor(t, dtype=F64), y)
    together, _ = march(solver, f, start, ragged())
    for row, grid in enumerate(ragged()):
        expected = alone(solver, f, start[row], grid[: len(grid.unique())] if row == 2 else grid)
        assert torch.allclose(together[row], expected, rtol=0, atol=1e-14)


def test_velocity_verlets_rows_are_the_rows_alone():
    solver = ode_core.solvers.create("velocity_verlet")

    def f(t, y):
        q, v = y.chunk(2, -1)
        return torch.cat([v, -torch.sin(q) * (1 + torch.as_tensor(t, dtype=F64)[..., None])], -1)

    start = torch.tensor([[1.0, 0.5, 0.3, 0.1], [0.2, 0.0, -0.7, 0.4]], dtype=F64)
    grids = ragged()[1:]
    together, _ = march(solver, f, start, grids)
    for row, grid in enumerate(grids):
        expected = alone(solver, f, start[row], grid[: len(grid.unique())])
        assert torch.allclose(together[row], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", TWO_STEP)
def test_a_row_without_a_step_comes_out_unchanged(name):
    solver = ode_core.solvers.create(name)
    y = torch.tensor([[1.0, 0.3], [0.2, -0.7]], dtype=F64)
    grids = torch.tensor([[0.0, 0.1, 0.3], [0.0, 0.1, 0.3]], dtype=F64)
    y, carry = march(solver, timed, y, grids)
    t0 = torch.tensor([0.3, 0.3], dtype=F64)
    step = solver.step(timed, t0, torch.tensor([0.5, 0.3], dtype=F64), y, carry, None)
    assert torch.equal(step.y[1], y[1])
    assert not torch.equal(step.y[0], y[0])
    assert all(torch.equal(a[1], b[1]) for a, b in zip(step.carry, carry, strict=True))


@pytest.mark.parametrize("name", TWO_STEP)
def test_order_two_on_a_grid_of_unequal_steps(name):
    """The ratio of neighbouring steps stays within 1.5 while the grid is refined."""
    problem = Circle(0.5)
    errors = []
    for n in (100, 200, 400):
        nodes = [3.0 * (i + 0.2 * (i % 2)) / n for i in range(n)] + [3.0]
        end = solve(problem, problem.y0, [0.0, 3.0], solver=name,
                    controller=FixedSteps(grid=nodes)).ys[-1]  # fmt: skip
        errors.append((end - problem.exact(3.0)).norm().item())
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("name", [*TWO_STEP, "velocity_verlet"])
def test_one_evaluation_a_step_and_one_at_the_start(name):
    y0 = torch.tensor([1.0, 0.3], dtype=F64)
    f, start = (swing, (y0, y0)) if name == "velocity_verlet" else (pendulum, y0)
    stats = solve(f, start, [0.0, 1.0], solver=name, dt=0.05).stats
    assert stats.accepted == 20
    assert stats.f_calls == 21


def energies(q, v):
    return 0.5 * v.square() - torch.cos(q)


def test_velocity_verlet_keeps_the_pendulums_energy_for_ten_thousand_steps():
    start = (torch.tensor([1.5], dtype=F64), torch.tensor([0.0], dtype=F64))
    times = torch.arange(10_001, dtype=F64) * 0.1
    grid = FixedSteps(grid=times)
    q, v = solve(swing, start, times, solver="velocity_verlet", controller=grid).ys
    drift = (energies(q, v) - energies(*start)).abs()
    assert drift.max() < 2e-3
    # Bounded: the last tenth of the time strays no further than the first.
    assert drift[-1000:].max() < 1.05 * drift[:1000].max()
    state = torch.stack([start[0][0], start[1][0]])
    lost = solve(pendulum, state, times[:1001], solver="midpoint", dt=0.1).ys
    assert (energies(lost[:, 0], lost[:, 1]) - energies(*start)).abs()[-1] > drift.max()


def test_velocity_verlet_runs_backwards_over_its_own_trace():
    start = (torch.tensor([1.5, 0.2], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64))
    there = solve(swing, start, [0.0, 50.0], solver="velocity_verlet", dt=0.1).ys
    end = there[0][-1], there[1][-1]
    back = solve(swing, (end[0], -end[1]), [0.0, 50.0], solver="velocity_verlet", dt=0.1).ys
    assert (back[0][-1] - start[0]).abs().max() < 1e-11
    assert (back[1][-1] + start[1]).abs().max() < 1e-11


def test_velocity_verlet_keeps_its_order_with_friction():
    f = lambda t, pair: (pair[1], -torch.sin(pair[0]) - 0.4 * pair[1])
    start = (torch.tensor([1.0], dtype=F64), torch.tensor([0.5], dtype=F64))
    truth = solve(f, start, [0.0, 3.0], solver="dopri8", rtol=1e-12, atol=1e-12).ys
    errors = []
    for n in (100, 200):
        found = solve(f, start, [0.0, 3.0], solver="velocity_verlet", dt=3.0 / n).ys
        errors.append((found[0][-1] - truth[0][-1]).abs().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.2)


def test_leapfrog_keeps_the_oscillators_amplitude():
    f = lambda t, y: torch.stack([y[1], -y[0]])
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    times = torch.arange(2001, dtype=F64) * 0.1
    size = solve(f, y0, times, solver="leapfrog", controller=FixedSteps(grid=times)).ys.norm(dim=1)
    assert (size - 1).abs().max() < 1e-2


@pytest.mark.parametrize("name", TWO_STEP)
def test_a_jump_begins_anew(name):
    """y' = 1 up to t = 1, then -2: a slope remembered across the jump would be seen."""
    f = lambda t, y: torch.where(t < 1.0, 1.0, -2.0) * torch.ones_like(y)
    y0 = torch.zeros(2, dtype=F64)
    end = solve(f, y0, [0.0, 2.0], solver=name, dt=0.3, jump_times=[1.0]).ys[-1]
    assert torch.allclose(end, torch.full_like(y0, -1.0), atol=1e-12)


@pytest.mark.parametrize(
    ("y0", "message"),
    [
        (torch.ones(2, 2, dtype=F64), "takes a state \\(q, v\\)"),
        (torch.ones(3, dtype=F64), "takes a state \\(q, v\\)"),
    ],
)
def test_velocity_verlet_refuses_what_is_no_pair(y0, message):
    with pytest.raises(ArgumentError, match=message):
        solve(lambda t, y: y, y0, [0.0, 1.0], solver="velocity_verlet", dt=0.1)


def test_velocity_verlet_refuses_momenta():
    pair = torch.ones(2, dtype=F64), torch.ones(2, dtype=F64)
    with pytest.raises(ArgumentError, match="first part of what f returned is not v"):
        solve(lambda t, s: (s[1] / 2, -s[0]), pair, [0.0, 1.0], solver="velocity_verlet", dt=0.1)
