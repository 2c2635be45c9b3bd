"""Checks that only a GPU can answer: nothing waits, failures are clear, far memory is reached."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ode_core import Graph, GraphWarning, solve
from ode_solvers.explicit import RungeKutta
from ode_solvers.gpu.correctness import Found, apart, random
from ode_solvers.kernels.choose import named
from ode_solvers.tables.dopri5 import DOPRI5

_FAR = (1 << 31) + 4097


def waits(device: torch.device) -> Found:
    """A solve in graphs, in which any synchronisation is an error once f was called first."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("error")
        return torch.sin(y) * torch.cos(t)

    y0 = random((1000, 3), torch.float32, device, 1)
    done = 0
    for graph in (Graph(8), Graph(8), Graph(4, lag=True)):
        try:
            with torch.no_grad():
                solve(f, y0, [0.0, 1.0, 5.0], graph=graph, rtol=1e-6, atol=1e-6)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        done += 1
    return {"passed": done == 3, "solves": done}


def uncaptured(device: torch.device) -> Found:
    """An f that reads a value is told so, and has the same result; solves after it are captured."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1.0 + float(y.mean()) * 0.0)

    y0 = random((100,), torch.float64, device, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = solve(f, y0, [0.0, 1.0], graph=True, rtol=1e-8, atol=1e-8).ys[-1]
        told = [str(one.message) for one in caught if one.category is GraphWarning]
        after = solve(lambda t, y: -y, y0, [0.0, 1.0], graph=True, rtol=1e-8, atol=1e-8).ys[-1]
    off = max(apart(x, y0 * torch.exp(torch.tensor(-1.0))) for x in (found, after))
    return {"passed": len(told) == 1 and off < 1e-6, "told": told, "off": off}


def far(device: torch.device) -> Found:
    """A sum over more numbers than 32 bits count, looked at beyond them."""
    free, _ = torch.cuda.mem_get_info(device)
    if free < 4 * 2 * _FAR:
        return {"passed": True, "left out": "there is not enough memory"}
    y, k = (torch.ones(_FAR, dtype=torch.bfloat16, device=device) for _ in range(2))
    k[-5000:] = 3.0
    fused = named("triton")
    out = fused.combine(y, fused.prepare(0.5, y), ((0, 2.0),), [k])
    wrong = int((out[-4096:] != 4.0).sum()) + int((out[: 1 << 20] != 2.0).sum())
    return {"passed": wrong == 0, "wrong": wrong}


def rounding(device: torch.device) -> Found:
    """Sums are the same bits where matrix products may round to ten bits."""
    y, *ks = (random((1 << 16,), torch.float32, device, i) for i in range(7))
    fused, found = named("triton"), []
    before = torch.get_float32_matmul_precision()
    for precision in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(precision)
        found.append(fused.combine(y, fused.prepare(0.1, y), DOPRI5.stage_rows[-1], ks))
    torch.set_float32_matmul_precision(before)
    return {"passed": all(torch.equal(found[0], x) for x in found[1:])}


def bits(device: torch.device) -> Found:
    """A graph gives the bits of the same loop run one operation at a time."""
    y0 = random((5000,), torch.float32, device, 3)
    solver = RungeKutta(DOPRI5, "triton")
    found = [solve(lambda t, y: torch.cos(y + t), y0, [0.0, 3.0], solver=solver, graph=True).ys
             for _ in range(3)]  # fmt: skip
    return {"passed": all(torch.equal(found[0], ys) for ys in found[1:])}


WAITING: dict[str, Callable[[torch.device], Found]] = {
    "nothing waits": waits,
    "what cannot be captured": uncaptured,
    "far memory": far,
    "no matrix products": rounding,
    "graphs repeat to the bit": bits,
}
