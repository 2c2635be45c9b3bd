"""Training ODENet, by its registered name: time and memory of every gradient method, and peers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import ode_core
from ode_core import OdeError, solve
from ode_solvers.gpu.correctness import Found
from ode_solvers.gpu.memory import peak
from ode_solvers.gpu.timing import wall_milliseconds

_METHODS = ("direct", "checkpoint", "symplectic", "reversible", "interpolated", "adjoint")
_WIDTH, _BATCH, _SIZE = 64, 128, 32


class Peer(nn.Module):
    """A block of the same field by a function of torchdiffeq."""

    def __init__(self, field: nn.Module, integrate: Callable[..., Any]) -> None:
        super().__init__()
        self.field, self.integrate = field, integrate

    def forward(self, y0: Tensor) -> Tensor:
        """Return the state at 1, like `y0`."""
        times = torch.tensor([0.0, 1.0], device=y0.device)
        end: Tensor = self.integrate(
            self.field, y0.float(), times, method="dopri5", rtol=1e-3, atol=1e-3
        )[-1]
        return end


class Widened(nn.Module):
    """A block whose state is float32 whatever comes in."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, y0: Tensor) -> Tensor:
        """Return what the block makes of the state."""
        end: Tensor = self.block(y0.float())
        return end


def _model(device: torch.device, gradient: str) -> Any:
    options: Any = {"solver": "dopri5", "rtol": 1e-3, "atol": 1e-3}
    if gradient == "reversible":
        options = {"solver": "reversible_heun", "dt": 0.1}
    torch.manual_seed(0)
    model: Any = ode_core.models.create(
        "odenet", channels=3, classes=10, width=_WIDTH, gradient=gradient, **options
    )
    model.blocks[0] = Widened(model.blocks[0])
    return model.to(device).to(memory_format=torch.channels_last)


def _measured(model: nn.Module, device: torch.device) -> Found:
    images = torch.randn(_BATCH, 3, _SIZE, _SIZE, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(_BATCH, device=device) % 10

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()

    return {"ms": wall_milliseconds(step, 5), "mib": peak(step)}


def odenet(device: torch.device) -> Found:
    """A training step in channels_last and bf16 with a float32 state, by method and by peer."""
    if "odenet" not in ode_core.models:
        return {"odenet": "not measured: pip install ode-models"}
    found: Found = {}
    for name in _METHODS:
        try:
            found[name] = _measured(_model(device, name), device)
        except OdeError as error:
            found[name] = str(error)
    try:
        peer: Any = importlib.import_module("torchdiffeq")
    except ImportError:
        return found | {"torchdiffeq": "not measured: it is not installed"}
    for name, ours, goal in (("odeint", "direct", 1.2), ("odeint_adjoint", "symplectic", 1.5)):
        model = _model(device, "direct")
        model.blocks[0] = Peer(model.blocks[0].block.field, getattr(peer, name))
        found[name] = _measured(model, device)
        if isinstance(found[ours], dict):
            found[f"times_faster_than_{name}"] = found[name]["ms"] / found[ours]["ms"]
            found[f"goal_over_{name}"] = goal
    return found


def allocations(device: torch.device) -> Found:
    """Allocations an attempted step, f's own among them: at most 7 eager, none in a graph."""
    y0, found = torch.randn(1 << 12, device=device), {}
    for name, graph in (("eager", False), ("graph", True)):

        def run(end: float, graph: bool = graph) -> tuple[int, int]:
            before = torch.cuda.memory_stats(device)["allocation.all.allocated"]
            with torch.no_grad():
                stats = solve(lambda t, y: -y, y0, [0.0, end], graph=graph, rtol=1e-6,
                              atol=1e-6).stats  # fmt: skip
            after = torch.cuda.memory_stats(device)["allocation.all.allocated"]
            return after - before, stats.accepted + stats.rejected

        run(40.0)
        # What a solve allocates once goes out in the difference of two.
        (few, short), (many, long) = run(10.0), run(40.0)
        found[name] = (many - few) / max(long - short, 1)
    return {"a_step_besides_f": {"eager": found["eager"] - 6.0, "graph": found["graph"]},
            "goal": [7, 0]}  # fmt: skip


TRAINING: dict[str, Callable[[torch.device], Found]] = {
    "odenet": odenet,
    "allocations": allocations,
}
