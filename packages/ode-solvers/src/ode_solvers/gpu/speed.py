"""Speed: kernels against the machine's own copy, steps and solves against the goals and peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ode_core import Graph, Tolerance, solve
from ode_solvers.explicit import RungeKutta
from ode_solvers.gpu.peers import PEERS
from ode_solvers.gpu.timing import copy_bandwidth, milliseconds, wall_milliseconds
from ode_solvers.kernels.choose import named
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.low_order import RK4

Found = dict[str, Any]
_SETS = 4
"""So many sets of buffers are taken in turn, so that the cache holds none of them."""


def copies(device: torch.device) -> Found:
    """The copy bandwidth that all others are held against."""
    return {"gb_per_s": round(copy_bandwidth(device), 1)}


def kernels(device: torch.device) -> Found:
    """Combine with 1 to 6 slopes, and finish: fractions of the copy bandwidth."""
    fused, ceiling = named("triton"), copy_bandwidth(device)
    found: Found = {}
    sizes = [1 << 20, 1 << 22, 1 << 24, (1 << 24) + 1, 1 << 26]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for size in sizes:
            sets = [
                [torch.randn(size, device=device).to(dtype) for _ in range(8)]
                for _ in range(_SETS if size < 1 << 26 else 2)
            ]
            turn = cycle(sets)
            for count in range(1, 7):
                row = tuple((i, 0.1 * (i + 1)) for i in range(count))

                def combine(row: Any = row, turn: Any = turn) -> None:
                    y, *ks = next(turn)
                    fused.combine(y, fused.prepare(0.1, y), row, ks)

                _note(found, f"combine{count}", dtype, size, count + 2, combine, ceiling)

            def finish(turn: Any = turn) -> None:
                y, *ks = next(turn)
                h = torch.tensor(0.1, dtype=torch.float64, device=device)
                # With the step size on the device the norm is not waited for.
                fused.finish(y, ks[0], h, (), DOPRI5.error_rows, ks, Tolerance(1e-3, 1e-3))

            _note(found, "finish", dtype, size, 8, finish, ceiling)
            del sets, turn
            torch.cuda.empty_cache()
    large = [value for key, value in found.items() if int(key.split()[-1]) >= 1 << 24]
    return {"copy_gb_per_s": ceiling, "fractions": found, "least_from_2^24": min(large),
            "goal": 0.85}  # fmt: skip


def _note(
    found: Found, name: str, dtype: torch.dtype, size: int, words: int, run: Any, ceiling: float
) -> None:
    taken = milliseconds(run, 15)
    bytes_ = words * size * dtype.itemsize
    found[f"{name} {str(dtype)[6:]} {size}"] = round(bytes_ / taken / 1e6 / ceiling, 3)


def whole_step(device: torch.device) -> Found:
    """One step of dopri5 on 2^24 float32 numbers, besides f."""
    y = torch.randn(1 << 24, device=device)
    k = torch.randn_like(y)
    solver = RungeKutta(DOPRI5, "triton")

    def step() -> None:
        solver.step(lambda t, y: k, 0.0, 0.1, y, (k,), Tolerance(1e-3, 1e-3))

    return {"ms": milliseconds(step, 15), "goal_ms": 0.73}


def small_step(device: torch.device) -> Found:
    """A step of dopri5 on 2^12 numbers with f = -y, which is all launches: µs a step."""
    y0 = torch.randn(1 << 12, device=device)
    found: Found = {"goal_eager_us": 90.0, "goal_graph_us": 25.0}
    for name, graph in _LOOPS.items():
        found[f"{name}_us"] = _per_step(y0, RungeKutta(DOPRI5, "triton"), graph)
    found["given_steps_in_a_graph_us"] = _given(y0)
    return found


_LOOPS: dict[str, Any] = {
    "eager": False,
    "graph": Graph(8),
    "graph_lag": Graph(8, lag=True),
    "graph_16": Graph(16),
}


def _decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def _per_step(y0: Tensor, solver: Any, graph: Any) -> float:
    options: Any = {"solver": solver, "rtol": 1e-6, "atol": 1e-6, "graph": graph}
    with torch.no_grad():
        stats = solve(_decay, y0, [0.0, 10.0], **options).stats
        taken = wall_milliseconds(lambda: solve(_decay, y0, [0.0, 10.0], **options))
    steps: int = stats.accepted + stats.rejected
    return 1e3 * taken / steps


def _given(y0: Tensor) -> float:
    def run() -> Any:
        return solve(_decay, y0, [0.0, 1.0], solver=RungeKutta(RK4, "triton"), dt=0.01, graph=True)

    with torch.no_grad():
        return 1e3 * wall_milliseconds(run) / 100


def against_peers(device: torch.device) -> Found:
    """Time besides f of a step of dopri5, against the peers that are installed."""
    found: Found = {}
    for power in (12, 16, 20, 24):
        y0 = torch.randn(1 << (power - 1), 2, device=device)
        each: Found = {"of f": 1e3 * milliseconds(partial(torch.neg, y0), 20, 10)}
        for name, graph in (("ours, eager", False), ("ours, graph", Graph(8))):
            each[name] = _besides(each["of f"], *_ours(y0, graph))
        for name, peer in PEERS.items():
            try:
                each[name] = _besides(each["of f"], *peer(y0))
            except ImportError as error:
                each[name] = f"not measured: {error}"
        found[f"2^{power}"] = each
    goals = (
        "torchdiffeq 8 eager, 30 graph to 2^16, 6 at 2^24; torchode 4, 15, 2.1; diffrax 2, 6, 1.8"
    )
    return {"us_a_step": found, "goals_times": goals}


_GOALS = {"torchdiffeq": (8, 30, 6), "torchode": (4, 15, 2.1), "diffrax": (2, 6, 1.8)}
"""So many times less, with an eager loop and in graphs up to 2^16 numbers, and at 2^24."""


def _besides(of_f: float, taken: float, calls: int, steps: int) -> float:
    return round((1e3 * taken - calls * of_f) / steps, 2)


def _ours(y0: Tensor, graph: Any) -> tuple[float, int, int]:
    def run() -> Any:
        with torch.no_grad():
            return solve(_decay, y0, [0.0, 5.0], rtol=1e-5, atol=1e-5, graph=graph)

    stats = run().stats
    return wall_milliseconds(run, 5), stats.f_calls, stats.accepted + stats.rejected


def slow_field(device: torch.device) -> Found:
    """The whole solve over calls of an f of about one millisecond."""
    width = 4096
    weight = torch.randn(width, width, device=device) / width**0.5
    y0 = torch.randn(width, width, device=device)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ weight) - y

    of_f = milliseconds(lambda: f(y0, y0), 10)
    found: Found = {"of_f_ms": of_f, "goal_eager": 1.10, "goal_graph": 1.02}
    for name, graph in (("eager", False), ("graph", Graph(4))):
        with torch.no_grad():
            run = partial(solve, f, y0, [0.0, 1.0], rtol=1e-4, atol=1e-4, graph=graph)
            calls = run().stats.f_calls
            found[name] = wall_milliseconds(run, 3) / (calls * of_f)
    return found


SPEED: dict[str, Callable[[torch.device], Found]] = {
    "copy": copies,
    "a small step": small_step,
    "a whole step": whole_step,
    "a slow field": slow_field,
    "against peers": against_peers,
    "kernels": kernels,
}
