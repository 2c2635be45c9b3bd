"""ODENet as it is trained on a GPU: channels last, and bf16 autocast around a float32 state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ode_core import solve
from ode_models.fields import ConvField
from ode_models.odenet import ODENet

LAST = torch.channels_last
GRADIENTS = ["direct", "checkpoint", "symplectic", "adjoint", "interpolated", "reversible"]


def lies_so(x):
    return x.is_contiguous(memory_format=LAST) and not x.is_contiguous()


def options(gradient):
    if gradient == "reversible":
        return {"solver": "reversible_heun", "dt": 0.25, "gradient": gradient}
    return {"solver": "dopri5", "rtol": 1e-2, "atol": 1e-2, "gradient": gradient}


class Seen(ConvField):
    """The field, which notes how its states and the gradients of its slopes lie."""

    def __init__(self, width):
        super().__init__(width)
        self.states, self.slopes = [], []

    def forward(self, t, y):
        self.states.append((lies_so(y), y.dtype))
        out = super().forward(t, y)
        if out.requires_grad:
            out.register_hook(lambda grad: self.slopes.append((lies_so(grad), grad.dtype)))
        return out


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bf16 autocast"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_states_outputs_and_gradients_stay_so(gradient, narrow):
    field = Seen(8).to(memory_format=LAST)
    y0 = torch.randn(2, 8, 4, 4).to(memory_format=LAST).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        ys = solve(field, y0, [0.0, 0.33, 1.0], **options(gradient)).ys
    assert all(lies_so(y) for y in ys)
    assert ys.dtype == torch.float32
    grads = torch.autograd.grad(ys[-1].square().sum(), [y0, *field.parameters()])
    assert all(lies_so(grad) for grad in (grads[0], grads[3], grads[7]))
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert set(field.states) == {(True, torch.float32)}
    assert field.slopes
    assert all(so for so, _ in field.slopes)


@pytest.mark.parametrize(
    "given",
    [{"solver": "rk4", "dt": 0.5}, {"solver": "dopri8", "rtol": 1e-2, "atol": 1e-2},
     {"graph": True}],
    ids=["rk4", "dopri8", "on the device"],
)  # fmt: skip
def test_every_loop_keeps_them(given):
    field = Seen(8).to(memory_format=LAST)
    y0 = torch.randn(2, 8, 4, 4).to(memory_format=LAST)
    with torch.no_grad():
        ys = solve(field, y0, [0.0, 0.4, 1.0], **given).ys
    assert all(lies_so(y) for y in ys)
    assert set(field.states) == {(True, torch.float32)}


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_odenet_trains_in_bf16_with_channels_last(gradient):
    model = ODENet(3, 4, 8, **options(gradient)).to(memory_format=LAST)
    odd = []

    def look(module, given, out):
        # The images have three channels; all that comes after them lies as the weights do.
        odd.extend(name for name, x in (("in", given[0]), ("out", out))
                   if x.shape[1] > 3 and x.shape[-1] > 1 and not lies_so(x))  # fmt: skip

    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.GroupNorm | nn.GELU):
            part.register_forward_hook(look)
    images = torch.randn(2, 3, 16, 16).to(memory_format=LAST)
    exact = nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
    loss.backward()
    assert not odd
    assert abs(float(loss) - float(exact)) < 0.02
    assert all(x.grad.dtype == torch.float32 for x in model.parameters())
    assert all(x.grad.isfinite().all() for x in model.parameters())
    assert any(float(x.grad.abs().max()) > 0.0 for x in model.blocks.parameters())
