"""ODENet and ResNet: the same stem, head and width, and one Euler step is one residual block."""

from __future__ import annotations

import pytest
import torch

import ode_core
from ode_models import ODEBlock, ODENet, ResNet
from ode_models.fields import ConvField
from ode_models.resnet import ResidualBlock
from tests.problems import FOR_MANY, solved_for

CLASSIFIERS = [n for n, r in ode_core.models.items() if r.fits == "classification"]


def made(name, **options):
    if not ode_core.models[name].solves:
        options = {key: value for key, value in options.items() if key == "blocks"}
    return ode_core.models.create(name, channels=3, classes=5, width=8, **options)


def test_the_registry_yields_the_studys_models_and_the_control():
    assert {"odenet", "resnet", "no_block"} <= set(CLASSIFIERS)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("size", [8, 32])
def test_images_become_logits_and_gradients_reach_every_parameter(name, size):
    model = made(name, solver="midpoint", dt=1.0)
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("gradient", FOR_MANY)
def test_the_odenet_trains_with_every_gradient_method(gradient):
    torch.manual_seed(0)
    model = made("odenet", **solved_for(gradient), gradient=gradient)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 5
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_one_euler_step_is_one_residual_block():
    residual = ResidualBlock(8)
    field = ConvField(8, timed=False)
    field.load_state_dict(residual.field.state_dict())
    y = torch.randn(2, 8, 6, 6)
    step = ODEBlock(field, solver="euler", dt=1.0)(y)
    assert torch.allclose(step, residual(y), atol=1e-6)


def test_one_euler_step_of_the_odenet_is_the_resnet_of_one_block():
    ode = ODENet(3, 5, 8, solver="euler", dt=1.0)
    residual = ResNet(3, 5, 8, blocks=(1,))
    residual.stem.load_state_dict(ode.stem.state_dict())
    residual.head.load_state_dict(ode.head.state_dict())
    # The time is the last channel and is 0 at the step's start: without it nothing is lost.
    field = {
        name: p[:, :8] if p.dim() == 4 else p
        for name, p in ode.blocks[0].field.state_dict().items()
    }
    residual.blocks[0].field.load_state_dict(field)
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(ode(images), residual(images), atol=1e-5)
    assert ode.blocks[0].stats.f_calls == 1


def test_stem_and_head_are_the_same_in_all_three():
    shapes = []
    for name in CLASSIFIERS:
        if ode_core.models[name].package == "ode-models":
            model = made(name)
            shapes.append([p.shape for part in (model.stem, model.head) for p in part.parameters()])
    assert len(shapes) == 3
    assert all(shape == shapes[0] for shape in shapes)


def test_width_and_blocks_set_the_size():
    count = lambda model: sum(p.numel() for p in model.parameters())
    assert count(ResNet(3, 10, 8, blocks=(2,))) < count(ResNet(3, 10, 8)) < count(ResNet(3, 10, 16))
    assert count(ODENet(3, 10, 16)) > 3 * count(ODENet(3, 10, 8))


@pytest.mark.parametrize("name", ["odenet", "resnet", "no_block"])
def test_every_next_stage_is_twice_as_wide_at_half_the_size(name):
    shapes = []
    model = made(name, solver="euler", dt=1.0, blocks=(1, 2, 1))
    for layer in [model.stem, *model.blocks]:
        layer.register_forward_hook(lambda layer, y, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    sizes = [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert list(dict.fromkeys(shapes)) == sizes
    assert len(shapes) == (3 if name == "no_block" else 7)


def test_more_stages_than_resolutions_are_refused():
    with pytest.raises(ode_core.ArgumentError, match="got 4 stages"):
        made("resnet", blocks=(1, 1, 1, 1))
