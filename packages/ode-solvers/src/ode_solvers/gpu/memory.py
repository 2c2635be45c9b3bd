"""Memory and time of training: gradient methods, and a convolutional block against torchdiffeq."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import ode_core
from ode_core import solve
from ode_solvers.gpu.timing import wall_milliseconds

Found = dict[str, Any]
_FLAT = 1.2
"""Twice the steps may take this much more memory where a method promises that they take none."""


class Dense(nn.Module):
    """A field of two layers on rows of 64 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope."""
        out: Tensor = self.layers(y)
        return out


class Convolutions(nn.Module):
    """A field of two convolutions with group norms on `[B, 64, H, W]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64),
        )  # fmt: skip

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope."""
        out: Tensor = self.layers(y)
        return out


def peak(run: Callable[[], Any]) -> float:
    """Return the most memory that a call allocates beside what there was, in MiB."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def methods(device: torch.device) -> Found:
    """Peak memory of a training step by every gradient method, for 25, 50 and 100 steps."""
    field = Dense().to(device)
    y0 = torch.randn(4096, 64, device=device)
    found: Found = {}
    for name in ("direct", "checkpoint", "symplectic", "reversible", "interpolated", "adjoint"):
        solver = "reversible_heun" if name == "reversible" else "rk4"

        def step(count: int, name: str = name, solver: str = solver) -> None:
            field.zero_grad(set_to_none=True)
            ys = solve(field, y0, [0.0, 1.0], solver=solver, dt=1.0 / count, gradient=name).ys
            ys[-1].square().mean().backward()

        try:
            used = {count: peak(partial(step, count)) for count in (25, 50, 100)}
            taken = wall_milliseconds(partial(step, 50), 3)
            found[name] = {"mib": used, "ms_50_steps": taken, "growth": used[100] / used[50]}
        except ode_core.UnsupportedError as error:
            found[name] = str(error)
    flat = {name: found[name]["growth"] <= _FLAT for name in ("reversible", "adjoint")
            if isinstance(found[name], dict)}  # fmt: skip
    return {"methods": found, "flat_where_promised": flat}


def training(device: torch.device) -> Found:
    """A training step of a convolutional block in bf16 autocast and channels_last."""
    field: Any = Convolutions().to(device)
    field = field.to(memory_format=torch.channels_last)
    y0 = torch.randn(128, 64, 16, 16, device=device).to(memory_format=torch.channels_last)
    times = torch.tensor([0.0, 1.0], device=device)

    def timed(end: Callable[[], Tensor]) -> Found:
        def run() -> None:
            field.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = end().float().square().mean()
            loss.backward()

        return {"ms": wall_milliseconds(run, 5), "mib": peak(run)}

    options: Any = {"rtol": 1e-3, "atol": 1e-3}

    def ours(gradient: str) -> Tensor:
        last: Tensor = solve(field, y0, times, gradient=gradient, **options).ys[-1]
        return last

    methods = ("direct", "checkpoint", "symplectic", "adjoint")
    found: Found = {name: timed(partial(ours, name)) for name in methods}
    try:
        peer: Any = importlib.import_module("torchdiffeq")
    except ImportError:
        return found | {"torchdiffeq": "not measured: it is not installed"}

    def theirs(name: str) -> Tensor:
        last: Tensor = getattr(peer, name)(field, y0, times, method="dopri5", **options)[-1]
        return last

    found |= {name: timed(partial(theirs, name)) for name in ("odeint", "odeint_adjoint")}
    return found | {
        "times_faster_than_odeint": found["odeint"]["ms"] / found["direct"]["ms"],
        "times_faster_than_odeint_adjoint": found["odeint_adjoint"]["ms"]
        / found["symplectic"]["ms"],
        "goals": [1.2, 1.5],
    }


MEMORY: dict[str, Callable[[torch.device], Found]] = {
    "gradient methods": methods,
    "a convolutional block": training,
}
