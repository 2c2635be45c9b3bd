"""A block with fixed steps is exported whole, for batches of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ode_core import UnsupportedError
from ode_models import ODEBlock
from ode_models.fields import ConvField, TimeMLPField


def exported(model, example):
    batch = torch.export.Dim("batch")
    return torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))


def network(solver, dt, field=None):
    torch.manual_seed(0)
    return nn.Sequential(ODEBlock(field or TimeMLPField(3, 8), solver=solver, dt=dt))


@pytest.mark.parametrize(("solver", "dt"), [("euler", 0.1), ("rk4", 0.25), ("heun", 0.3)])
def test_an_exported_block_gives_what_the_block_gives_and_comes_back_from_disk(
    solver, dt, tmp_path
):
    model = network(solver, dt)
    torch.export.save(exported(model, torch.randn(4, 3)), tmp_path / "block.pt2")
    again = torch.export.load(tmp_path / "block.pt2").module()
    for rows in (2, 4, 33):
        y0 = torch.randn(rows, 3)
        with torch.no_grad():
            assert torch.equal(again(y0), model(y0))


def test_images_are_exported_too():
    model = network("midpoint", 0.5, ConvField(4))
    program = exported(model, torch.randn(3, 4, 6, 6))
    images = torch.randn(5, 4, 6, 6)
    with torch.no_grad():
        assert torch.allclose(program.module()(images), model(images), atol=1e-6)


def test_the_program_has_the_weights_of_the_block_and_they_can_be_trained():
    model = network("rk4", 0.5)
    program = exported(model, torch.randn(4, 3))
    assert set(program.state_dict) == set(model.state_dict())
    y0 = torch.randn(6, 3)
    again = program.module()
    again(y0).square().sum().backward()
    model(y0).square().sum().backward()
    for name, parameter in again.named_parameters():
        assert torch.allclose(parameter.grad, model.get_parameter(name).grad, rtol=1e-5, atol=1e-6)


def test_a_solver_that_chooses_its_steps_is_refused_with_what_to_do():
    with pytest.raises(UnsupportedError, match=r"fixed steps and dt=\.\.\., such as 'rk4'"):
        exported(network("dopri5", None), torch.randn(4, 3))
    # As a tensor the times are looked at, which an exported program cannot.
    with pytest.raises(UnsupportedError, match="gradient='direct'"):
        exported(
            nn.Sequential(ODEBlock(TimeMLPField(3, 8), solver="rk4", dt=0.5, gradient="adjoint")),
            torch.randn(4, 3),
        )
