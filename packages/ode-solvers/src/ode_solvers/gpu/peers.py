"""The same solve by peers: time, calls of f, attempted steps; ImportError where one is absent."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ode_solvers.gpu.timing import wall_milliseconds

Timed = tuple[float, int, int]


class _Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: Any, y: Any) -> Any:
        self.calls += 1
        return -y


def torchdiffeq(y0: Tensor) -> Timed:
    """Dopri5 of torchdiffeq; two calls choose the first step, six make each."""
    package: Any = importlib.import_module("torchdiffeq")
    times, f = torch.tensor([0.0, 5.0], device=y0.device), _Counted()

    def run() -> None:
        with torch.no_grad():
            package.odeint(f, y0, times, rtol=1e-5, atol=1e-5, method="dopri5")

    run()
    calls = f.calls
    return wall_milliseconds(run, 5), calls, max(1, (calls - 2) // 6)


def torchode(y0: Tensor) -> Timed:
    """Dopri5 of torchode, which gives every row its own steps."""
    package: Any = importlib.import_module("torchode")
    f = _Counted()
    term = package.ODETerm(f)
    method = package.Dopri5(term=term)
    control = package.IntegralController(atol=1e-5, rtol=1e-5, term=term)
    adjoint = package.AutoDiffAdjoint(method, control)
    ends = torch.tensor([[0.0, 5.0]], device=y0.device).expand(len(y0), 2)
    problem = package.InitialValueProblem(y0=y0, t_eval=ends)
    stats: dict[str, Any] = {}

    def run() -> None:
        with torch.no_grad():
            stats.update(adjoint.solve(problem).stats)

    run()
    calls = f.calls
    steps = int(stats["n_steps"].max())
    return wall_milliseconds(run, 5), calls, steps


def diffrax(y0: Tensor) -> Timed:
    """Dopri5 of diffrax, compiled, on JAX's first device."""
    package: Any = importlib.import_module("diffrax")
    jax: Any = importlib.import_module("jax")
    if jax.devices()[0].platform != "gpu":
        raise ImportError("JAX has no GPU here")
    term = package.ODETerm(lambda t, y, args: -y)
    control = package.PIDController(rtol=1e-5, atol=1e-5)
    start = jax.numpy.asarray(y0.cpu().numpy())

    def plain(y: Any) -> Any:
        made = package.diffeqsolve(term, package.Dopri5(), 0.0, 5.0, None, y,
                                   stepsize_controller=control)  # fmt: skip
        return made.ys, made.stats["num_steps"]

    solved = jax.jit(plain)

    def run() -> None:
        solved(start)[0].block_until_ready()

    steps = int(solved(start)[1])
    return wall_milliseconds(run, 5), 6 * steps + 2, steps


PEERS: dict[str, Callable[[Tensor], Timed]] = {
    "torchdiffeq": torchdiffeq,
    "torchode": torchode,
    "diffrax": diffrax,
}
