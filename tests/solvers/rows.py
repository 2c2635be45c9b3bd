"""Taking per-sample steps without the loop: each row with its own times, compared with it alone."""

from __future__ import annotations

import itertools

import torch

from tests.problems import F64


def march(solver, f, y, grids, tolerance=None):
    """The states and the carry after stepping each row of `y` over its own grid, `[B, n]`."""
    carry = solver.init(f, grids[:, 0], y)
    for i in range(grids.shape[1] - 1):
        step = solver.step(f, grids[:, i], grids[:, i + 1], y, carry, tolerance)
        y, carry = step.y, step.carry
    return y, carry


def alone(solver, f, y, grid):
    """The state after stepping one sample, without a batch dimension, over a grid of floats."""
    times = grid.tolist()
    carry = solver.init(f, times[0], y)
    for t0, t1 in itertools.pairwise(times):
        step = solver.step(f, t0, t1, y, carry, None)
        y, carry = step.y, step.carry
    return y


def ragged(n=12):
    """Three grids: backwards, growing steps, and one that stands still from its middle on."""
    back = torch.linspace(1.0, -0.5, n + 1, dtype=F64)
    growing = 0.5 * torch.linspace(0.0, 1.0, n + 1, dtype=F64) ** 1.5
    halting = torch.linspace(0.0, 1.2, n + 1, dtype=F64).clamp_max(0.65)
    return torch.stack([back, growing, halting])
