"""Trained networks solved otherwise, their size, and how exact their gradients are."""

from __future__ import annotations

import pytest
import torch

from ode_core import SolveError
from ode_models import ODENet, ResNet
from ode_tasks.finer import SOLVES, Solve, finer, solved_by
from ode_tasks.networks import gradient_columns, size_columns

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def net(solver="euler", gradient="direct", **options):
    torch.manual_seed(0)
    options = options or {"dt": 1.0}
    made = ODENet(3, 5, 8, solver=solver, gradient=gradient, **options)
    made(IMAGES)  # a block is known by having solved
    return made


def test_a_finer_solve_is_that_of_a_network_made_with_it():
    model = net()
    with torch.no_grad(), solved_by(model, Solve("rk4", 4)):
        finer_logits = model(IMAGES)
    assert torch.equal(finer_logits, net("rk4", dt=0.25)(IMAGES))
    assert torch.equal(model(IMAGES), net()(IMAGES))  # put back
    assert not torch.allclose(finer_logits, net()(IMAGES), atol=1e-4)


def test_settings_are_put_back_after_a_failure_and_the_score_is_none():
    def fail(model):
        raise SolveError("it cannot")

    model = net("dopri5", rtol=1e-3, atol=1e-3)
    assert finer(model, fail) == dict.fromkeys(way.name for way in SOLVES)
    (block,) = model.blocks
    assert (block.solver, block.rtol, block.atol, block.dt) == ("dopri5", 1e-3, 1e-3, None)


def test_every_way_is_scored_and_a_network_without_blocks_has_none():
    calls = {}

    @torch.no_grad()
    def score(model):
        model(IMAGES)
        calls[len(calls)] = model.blocks[0].stats.f_calls
        return 0.5

    assert finer(net(), score) == {"euler_1": 0.5, "euler_4": 0.5, "dopri5_1e-5": 0.5}
    assert (calls[0], calls[1]) == (1, 4)
    assert calls[2] > 8
    assert finer(ResNet(3, 5, 8), score) == {}


def test_size_counts_each_evaluation():
    one, four = (size_columns(net("euler", dt=dt), IMAGES) for dt in (1.0, 0.25))
    images = IMAGES.shape[-1] // 4  # a quarter of the height and width
    field = 2 * 2 * 9 * 9 * 8 * images**2  # two 3x3 convolutions of 9 channels to 8
    assert four["flops"] - one["flops"] == 3 * field
    assert one["ode_blocks"] == 1
    model = net()
    held = sum(p.numel() for p in model.blocks.parameters())
    assert one["ode_share"] == pytest.approx(held / sum(p.numel() for p in model.parameters()))
    assert size_columns(ResNet(3, 5, 8), IMAGES)["ode_share"] == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_adjoint_is_inexact_and_checkpoint_is_not():
    def loss(model):
        return model(IMAGES).square().sum()

    twin = net()
    found = {g: gradient_columns(net(gradient=g), twin, loss) for g in ("adjoint", "checkpoint")}
    assert found["checkpoint"]["gradient_error"] < 1e-5
    assert found["adjoint"]["gradient_error"] > 0.1
    assert found["adjoint"]["gradient_cosine"] < 0.99
    assert gradient_columns(twin, twin, loss) == {"gradient_error": None, "gradient_cosine": None}
