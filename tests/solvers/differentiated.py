"""A network to be solved and differentiated, and how far two gradients are apart."""

from __future__ import annotations

import math

import torch
from torch import nn

import ode_core
from tests.problems import F64


class Net(nn.Module):
    def __init__(self, dtype=F64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)

    def forward(self, t, y):
        return self.layers(torch.cat([y, t.expand(len(y), 1)], 1))


def off(found, exact):
    top = sum((a - b).abs().square().sum() for a, b in zip(found, exact, strict=True))
    return math.sqrt(top / sum(b.abs().square().sum() for b in exact))


def problem(solver, dtype=F64):
    torch.manual_seed(1)
    net = Net(dtype)
    y0 = torch.randn(3, 2, dtype=dtype, requires_grad=True)
    takes_pairs = isinstance(solver, str) and ode_core.solvers[solver].takes_pairs
    f, start = net, y0
    if takes_pairs:
        f, start = (lambda t, pair: (pair[1], net(t, pair[0]))), (y0, 0.5 * y0)
    return f, start, [y0, *net.parameters()]
