"""The checks: each returns whether it passed, and the figures that it judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ode_core import Graph, Tolerance, solve
from ode_core.tolerance import SampleTolerance
from ode_solvers.explicit import RungeKutta
from ode_solvers.kernels.choose import named
from ode_solvers.tableau import row_of
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8
from ode_solvers.tables.low_order import BOSH3, RK4
from ode_solvers.tables.tsit5 import TSIT5

Found = dict[str, Any]
# The largest relative difference of a sum and of a norm from those in float64.
ALLOWED = {
    torch.float64: (1e-14, 1e-13),
    torch.float32: (5e-7, 2e-6),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.5e-2),
    torch.complex64: (5e-7, 2e-6),
    torch.complex128: (1e-14, 1e-13),
}
SHAPES = [(), (1,), (7,), (127,), (129,), (1000,), (4095,), (4096,), (4097,), (65537,), (37, 5),
          (513, 33), (3, 4097)]  # fmt: skip


def random(shape: Sequence[int], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Return the same normal numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator).to(device)


def precise(x: Tensor) -> Tensor:
    """Return a tensor in 64-bit parts."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def apart(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, relative to the largest entry or 1."""
    if not wanted.numel():
        return 0.0
    scale = precise(wanted).abs().max().clamp_min(1.0)
    worst = ((precise(found) - precise(wanted)).abs() / scale).max()
    return math.inf if worst.isnan() else float(worst)


def sums(device: torch.device) -> Found:
    """Sums, norms and transposes of every dtype and shape, against plain torch in float64."""
    fused, plain, worst = named("triton"), named("reference"), {}
    tolerance = Tolerance(1e-2, 1e-2)
    passed = True
    for dtype, (sum_, norm) in ALLOWED.items():
        off = [0.0, 0.0]
        for shape in SHAPES:
            y, *ks = (random(shape, dtype, device, i) for i in range(8))
            exact, *slopes = (precise(x) for x in (y, *ks))
            row, solution, errors = DOPRI5.stage_rows[-1], DOPRI5.solution_row, DOPRI5.error_rows
            h = fused.prepare(-0.3, y)
            off[0] = max(off[0], apart(fused.combine(y, h, row, ks),
                                       plain.combine(exact, -0.3, row, slopes)))  # fmt: skip
            made, (found,) = fused.finish(y, None, h, solution, errors, ks, tolerance)
            _, (wanted,) = plain.finish(exact, precise(made), -0.3, solution, errors, slopes,
                                        tolerance)  # fmt: skip
            off[1] = max(off[1], abs(found - wanted) / wanted)
        worst[str(dtype)] = off
        passed = passed and off[0] <= sum_ and off[1] <= norm
    return {"passed": passed, "sum_and_norm_off": worst}


def rows(device: torch.device) -> Found:
    """Step sizes of each row, and dense output at a place of each row."""
    fused, plain, off = named("triton"), named("reference"), 0.0
    for shape in ((5,), (37, 5), (513, 33), (3, 4097), (2, 3, 4, 5)):
        y, *ks = (random(shape, torch.float64, device, i) for i in range(8))
        dt = torch.linspace(-0.3, 0.4, len(y), dtype=torch.float64, device=device)
        h, wide = fused.prepare(dt, y), plain.prepare(dt, y)
        given = (DOPRI5.solution_row, DOPRI5.error_rows, ks, SampleTolerance(1e-2, 1e-2))
        made, (found,) = fused.finish(y, None, h, *given)
        exact, (wanted,) = plain.finish(y, None, wide, *given)
        off = max(off, apart(made, exact), apart(found / wanted, torch.ones_like(wanted)))
        dense: Any = DOPRI5.dense
        inside: Any = fused
        value = inside.interpolate(y, h, torch.full_like(dt, 0.4), dense, ks[:7])
        off = max(off, apart(value, plain.combine(y, wide, row_of(dense.weights(0.4)), ks)))
    return {"passed": off < 1e-13, "off": off}


def gradients(device: torch.device) -> Found:
    """Gradients through a solve on the kernel, against those through plain torch."""
    matrix = random((4, 4), torch.float64, device, 1) / 4
    found = []
    for kernel in ("triton", "reference"):
        weight = matrix.clone().requires_grad_()
        y0 = random((3, 4), torch.float64, device, 2).requires_grad_()
        ys = solve(lambda t, y, w=weight: torch.tanh(y @ w) * torch.cos(t), y0, [0.0, 0.3, 1.0],
                   solver=RungeKutta(DOPRI5, kernel), rtol=1e-4, atol=1e-4).ys  # fmt: skip
        found.append(torch.autograd.grad(ys.square().sum(), (weight, y0)))
    off = max(apart(a, b) for a, b in zip(*found, strict=True))
    return {"passed": off < 1e-11, "off": off}


def refusals(device: torch.device) -> Found:
    """A state or a slope that is not finite has an infinite error, wherever it stands."""
    fused, refused = named("triton"), 0
    for bad in (math.nan, math.inf):
        for place in (0, 1023, 1024, 4096):
            for where in range(2):
                y = random((4097,), torch.float32, device, 0)
                ks = [random((4097,), torch.float32, device, 1 + i) for i in range(7)]
                y1 = y + 0.1
                (y1 if where else ks[2])[place] = bad
                _, (norm,) = fused.finish(y, y1, fused.prepare(0.1, y), DOPRI5.solution_row,
                                          DOPRI5.error_rows, ks, Tolerance(1e-3, 1e-3))  # fmt: skip
                refused += norm == math.inf
    return {"passed": refused == 16, "refused": refused, "of": 16}


def repeats(device: torch.device) -> Found:
    """The same bits again and again."""
    fused, times = named("triton"), 100 if device.type == "cuda" else 3
    y, *ks = (random((100_003,), torch.float32, device, i) for i in range(8))
    given = (DOPRI5.solution_row, DOPRI5.error_rows, ks, Tolerance(1e-3, 1e-3))
    first = fused.finish(y, None, 0.1, *given)
    same = 0
    for _ in range(times):
        made, norms = fused.finish(y, None, 0.1, *given)
        same += bool(torch.equal(made, first[0])) and norms == first[1]
    return {"passed": same == times, "same": same, "of": times}


def _turning(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1] * (1 + t), -y[..., 0]], -1) - 0.1 * y


def loops(device: torch.device) -> Found:
    """Solves on the device against the host loop: the same steps and states."""
    steps, off, same = {}, 0.0, True
    y0 = random((50, 2), torch.float64, device, 3)
    for table in (DOPRI5, TSIT5, BOSH3, DOPRI8, RK4):
        solver: Any = RungeKutta(table, "triton")
        fixed: Any = {"dt": 0.05} if table is RK4 else {"rtol": 1e-4, "atol": 1e-5, "dt": 1.5}
        found = [
            solve(_turning, y0, [0.0, 0.7, 2.0], solver=solver, graph=graph, **fixed)
            for graph in (False, True, Graph(3, lag=True))
        ]
        counts = [(one.stats.accepted, one.stats.rejected) for one in found]
        same = same and len(set(counts)) == 1
        steps[table.name] = counts[0]
        off = max(off, *(apart(one.ys, found[0].ys) for one in found[1:]))
    return {"passed": same and off < 1e-9, "accepted_and_rejected": steps, "off": off}


def renewed(device: torch.device) -> Found:
    """A kept graph sees weights that were changed in place, and never those it was not made for."""
    weight = random((2,), torch.float64, device, 4)
    held = {"weight": weight}

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y * held["weight"].abs()

    off = 0.0
    y0 = torch.ones((3, 2), dtype=torch.float64, device=device)
    for change in range(4):
        if change == 1:
            weight.mul_(2.0)
        if change == 2:
            held["weight"] = weight + 0.5
        if change == 3:
            y0 = y0 * 2.0
        ys = solve(
            f, y0, [0.0, 1.0], solver=RungeKutta(DOPRI5, "triton"), graph=True, rtol=1e-9, atol=1e-9
        ).ys
        off = max(off, apart(ys[-1], y0 * torch.exp(-held["weight"].abs())))
    return {"passed": off < 1e-7, "off": off}


CHECKS: dict[str, Callable[[torch.device], Found]] = {
    "sums and norms": sums,
    "rows": rows,
    "gradients": gradients,
    "what is not finite is refused": refusals,
    "results repeat to the bit": repeats,
    "loops on the device": loops,
    "kept graphs": renewed,
}
