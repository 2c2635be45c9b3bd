"""The ladder of a run: its rungs, what it measures on each, and what it leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tasks.test_measure import Block, Decay
from torch import nn

from ode_core.protocols import RunConfig
from ode_tasks import work_precision
from ode_tasks.run import Silent, execute
from ode_tasks.work_precision import How


def decay(t, y):
    return -y.exp().log()


def system(solver, dt=None, gradient="direct"):
    return work_precision.of_system(decay, torch.ones(3), (0.0, 1.0), How(solver, gradient, dt))


def test_fixed_steps_are_halved_and_errors_fall_with_the_order():
    rows = system("rk4", dt=0.25)
    assert [row["dt"] for row in rows] == [1.0, 0.5, 0.25, 0.125, 0.0625]
    assert [row["accepted"] for row in rows] == [1, 2, 4, 8, 16]
    assert [row["f_calls"] for row in rows] == [4, 8, 16, 32, 64]
    first = 1 - 1 + 1 / 2 - 1 / 6 + 1 / 24  # one step of size 1
    assert rows[0]["error"] == pytest.approx((first - math.exp(-1)) / math.exp(-1), rel=1e-6)
    slope = math.log2(rows[-2]["error"] / rows[-1]["error"])
    assert slope == pytest.approx(4, abs=0.2)


def test_an_adaptive_solver_has_a_rung_for_each_tolerance():
    rows = system("dopri5")
    assert tuple(row["rtol"] for row in rows) == work_precision.TOLERANCES
    assert rows[-1]["error"] < 0.01 * rows[0]["error"]
    assert rows[-1]["error"] < 1e-5
    assert all(row["seconds"] > 0 and row["rounds"] >= 1 for row in rows)


def test_memory_grows_with_depth_by_direct_and_hardly_by_adjoint():
    direct, adjoint = (system("rk4", 0.0625, name) for name in ("direct", "adjoint"))
    grown = [rows[-1]["memory_bytes"] / rows[0]["memory_bytes"] for rows in (direct, adjoint)]
    assert grown[0] > 10
    assert grown[1] < grown[0] / 2


def test_a_rung_that_breaks_down_is_there_without_numbers():
    def stiff(t, y):
        return -1e6 * (y - torch.cos(t))

    how = How("bosh3", "direct", None)
    exact = torch.ones(2, 1, dtype=torch.float64)
    work = work_precision.Work(stiff, torch.ones(1, dtype=torch.float64), (0.0, 1.0), exact)
    rows = work_precision.ladder([work], how)
    assert len(rows) == 5
    assert {(row["error"], row["seconds"], row["rounds"]) for row in rows} == {(None, None, 0)}


def test_a_models_blocks_are_solved_again_and_left_as_they_are():
    block = Block(Decay(), solver="rk4", dt=0.5)
    model = nn.Sequential(block, nn.Linear(3, 2))
    x = torch.rand(5, 3) + 1
    model(x)
    how = How("rk4", "direct", 0.5)
    rows = work_precision.of_model(model, how, x)
    assert len(rows) == 5
    assert rows[0]["error"] > rows[-1]["error"] > 0
    assert block.field.rate.dtype == torch.float32
    assert work_precision.of_model(nn.Linear(3, 2), how, x) == []


def test_every_kind_of_task_leaves_a_ladder():
    """And only for a model that solves."""
    for task, model, solver in (("spiral", "neural_ode", "rk4"), ("digits", "odenet", "dopri5")):
        config = RunConfig(task, model, solver, "direct", settings={"epochs": "1"})
        rows = execute(config, Silent())["work_precision"]
        assert len(rows) == 5
        assert rows[-1]["error"] < rows[0]["error"]
    config = RunConfig("digits", "resnet", "", "", settings={"epochs": "1"})
    assert execute(config, Silent())["work_precision"] == []
