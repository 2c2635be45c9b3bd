"""Initial value problems with known solutions, shared by the tests; all in float64."""

from __future__ import annotations

import math

import torch

import ode_core

F64 = torch.float64


class Circle:
    """A turning, breathing circle: y' = (cos(t)/2 + i (1 + t/2)) y; time enters f."""

    t1 = 3.0

    def __init__(self, breathing: float) -> None:
        self.breathing = breathing
        self.y0 = torch.tensor([1.0, 0.0], dtype=F64)

    def __call__(self, t, y):
        growth, speed = self.breathing * torch.cos(t), 1 + t / 2
        return torch.stack([growth * y[0] - speed * y[1], speed * y[0] + growth * y[1]])

    def exact(self, t):
        radius, angle = math.exp(self.breathing * math.sin(t)), t + t * t / 4
        return radius * torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)


class Chirp:
    """A pair (q, v) whose turning speeds up: q'' = (q_y, -q_x) - t^2 q; time enters f."""

    t1 = 3.0

    def __init__(self) -> None:
        self.y0 = (torch.tensor([0.0, 1.0], dtype=F64), torch.zeros(2, dtype=F64))

    def __call__(self, t, state):
        q, v = state
        return v, torch.stack([q[..., 1], -q[..., 0]], -1) - t * t * q

    def exact(self, t):
        sine, cosine = math.sin(t * t / 2), math.cos(t * t / 2)
        return torch.tensor([sine, cosine, t * cosine, -t * sine], dtype=F64)


def suited(record, problem):
    """The problem, or one of its kind in a state that the solver of this record takes."""
    return Chirp() if record.takes_pairs else problem


def flat(ys):
    """States `[T, N]`, whether they came as tensors or as pairs."""
    return torch.cat(ys, -1) if isinstance(ys, tuple) else ys


def oscillator(t, y):
    """y'' = -y, solved by (cos t, -sin t) from (1, 0)."""
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def van_der_pol(mu):
    def f(t, y):
        return torch.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    return f


def lotka_volterra(t, y):
    a, b, c, d = 1.5, 1.0, 3.0, 1.0
    return torch.stack([a * y[0] - b * y[0] * y[1], -c * y[1] + d * y[0] * y[1]])


# Gradient methods for any number of parameters.
FOR_MANY = [name for name in ode_core.gradients if name != "forward"]


def solved_for(gradient, dt=0.5):
    """Options of a fixed-step solve that this gradient method can go back through."""
    return {"solver": "reversible_heun" if gradient == "reversible" else "rk4", "dt": dt}
