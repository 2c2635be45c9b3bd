"""Whole solves in one launch: against the loop, and the time of a step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ode_core import solve
from ode_solvers.explicit import RungeKutta
from ode_solvers.fields import ElementwiseField, MLPField
from ode_solvers.gpu.correctness import Found, apart, random
from ode_solvers.gpu.timing import wall_milliseconds
from ode_solvers.tables.dopri5 import DOPRI5


def lorenz(t: Tensor, y: Any, sigma: Any, rho: Any, beta: Any) -> tuple[Any, Any, Any]:
    """Return the slopes of Lorenz's three equations."""
    a, b, c = y
    return sigma * (b - a), a * (rho - c) - b, a * b - beta * c


def fields(
    batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[nn.Module, int]]:
    """Return a system whose parameter differs from sample to sample, and a perceptron, sized."""
    sigma = nn.Parameter(torch.tensor(10.0, dtype=dtype))
    rho = nn.Parameter(torch.linspace(14.0, 28.0, batch, dtype=dtype))
    torch.manual_seed(0)
    return {
        "system": (ElementwiseField(lorenz, 3, sigma=sigma, rho=rho, beta=8 / 3).to(device), 3),
        "perceptron": (MLPField(4, 16, time=True).to(device, dtype), 4),
    }


def agrees(device: torch.device) -> Found:
    """Steps, states and gradients of whole solves, against those of the loop in plain torch."""
    batch, off, same = (64 if device.type == "cuda" else 3), 0.0, True
    for f, size in fields(batch, device, torch.float64).values():
        start, found = random((batch, size), torch.float64, device, 1), []
        for kernel in ("whole", "cpu"):
            y0 = start.clone().requires_grad_()
            solution = solve(f, y0, [0.0, 0.07, 0.2], solver=RungeKutta(DOPRI5, kernel),
                             stepping="per_sample", rtol=1e-4, atol=1e-4)  # fmt: skip
            grads = torch.autograd.grad(solution.ys.square().sum(), (y0, *f.parameters()))
            found.append((solution.stats.accepted, solution.ys.detach(), *grads))
        same = same and torch.equal(found[0][0], found[1][0])
        off = max(off, *(apart(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=True)))
    return {"passed": same and off < 1e-9, "same_steps": same, "off": off}


def repeats(device: torch.device) -> Found:
    """Gradients of shared parameters are the same bits again and again."""
    times, batch = (20, 1000) if device.type == "cuda" else (2, 3)
    f, size = fields(batch, device, torch.float32)["perceptron"]
    y0, found = random((batch, size), torch.float32, device, 2), []
    for _ in range(times):
        ys = solve(f, y0, [0.0, 0.1], solver=RungeKutta(DOPRI5, "whole"), stepping="per_sample",
                   rtol=1e-3, atol=1e-3).ys  # fmt: skip
        found.append(torch.autograd.grad(ys.square().sum(), tuple(f.parameters())))
    same = sum(all(map(torch.equal, one, found[0])) for one in found)
    return {"passed": same == times, "same": same, "of": times}


def speed(device: torch.device) -> Found:
    """Whole solves and the loop, forwards and with gradients: ms a solve, and µs a step."""
    found: Found = {"goal_us_a_step": 10.0}
    for batch in (1024, 65536):
        for name, (f, size) in fields(batch, device, torch.float32).items():
            y0 = random((batch, size), torch.float32, device, 3)
            each: Found = {}
            for kernel in ("whole", "triton"):
                run = partial(_solve, f, y0, kernel)
                with torch.no_grad():
                    steps = int((run().stats.accepted + run().stats.rejected).max())
                    each[f"{kernel}_ms"] = wall_milliseconds(run, 5)
                each[f"{kernel}_us_a_step"] = 1e3 * each[f"{kernel}_ms"] / steps
                each[f"{kernel}_with_gradients_ms"] = wall_milliseconds(partial(_train, f, run), 3)
            each["times_faster_than_the_loop"] = each["triton_ms"] / each["whole_ms"]
            found[f"{name}, {batch} samples"] = each
    return found


def _solve(f: nn.Module, y0: Tensor, kernel: str) -> Any:
    return solve(f, y0, [0.0, 1.0], solver=RungeKutta(DOPRI5, kernel), stepping="per_sample",
                 rtol=1e-5, atol=1e-5)  # fmt: skip


def _train(f: nn.Module, run: Any) -> None:
    torch.autograd.grad(run().ys[-1].square().mean(), tuple(f.parameters()))
