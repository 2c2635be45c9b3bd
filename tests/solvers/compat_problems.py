"""The four problems of torchdiffeq's own tests, on t in [1, 8], with their solutions."""

from __future__ import annotations

import math

import torch

F32, F64 = torch.float32, torch.float64


class Constant(torch.nn.Module):
    """y' = a + (y - (a t + b))^5, solved by a t + b."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.2))
        self.b = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, t, y):
        return self.a + (y - (self.a * t + self.b)) ** 5

    def exact(self, t):
        return self.a * t + self.b


class Linear(torch.nn.Module):
    """y' = A y with a skew-symmetric A of size 10, solved by expm(A t) 1; it counts its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        u = 0.1 * torch.randn(10, 10)
        self.A = torch.nn.Parameter(u - u.T)
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return self.A @ y

    def exact(self, t):
        ends = [torch.linalg.matrix_exp(self.A.detach().double() * time.double()) for time in t]
        return torch.stack([end.sum(1) for end in ends]).to(t.dtype)


class Sine(torch.nn.Module):
    """y' = 2 y / t + t^4 sin 2t - t^2 + 4 t^3."""

    def forward(self, t, y):
        return 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3

    def exact(self, t):
        waves = -0.5 * t**4 * torch.cos(2 * t) + 0.5 * t**3 * torch.sin(2 * t)
        waves = waves + 0.25 * t**2 * torch.cos(2 * t)
        return waves - t**3 + 2 * t**4 + (math.pi - 0.25) * t**2


class Decay(torch.nn.Module):
    """y' = -0.1 exp(-0.1 t), without y, solved by exp(-0.1 t)."""

    def forward(self, t, y):
        return -0.1 * torch.exp(-0.1 * t)

    def exact(self, t):
        return torch.exp(-0.1 * t)


PROBLEMS = {"constant": Constant, "linear": Linear, "sine": Sine, "exp": Decay}


def problem(name, dtype=F64, *, reverse=False):
    """Return f, y0, t = ten times from 1 to 8 (or back) and the states there."""
    f = PROBLEMS[name]().to(dtype)
    t = torch.linspace(1, 8, 10, dtype=F64)
    truth = f.exact(t.to(dtype)).detach()
    if reverse:
        t, truth = t.flip(0), truth.flip(0)
    return f, truth[0].clone().requires_grad_(), t.clone().requires_grad_(), truth


def relative_error(truth, estimate):
    return ((truth - estimate) / truth).abs().max().item()
