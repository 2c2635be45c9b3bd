"""A solve that ends where the first entry of an event function crosses zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core import ArgumentError, Event, GradientMethod
from ode_solvers.compat.torchdiffeq.call import Call
from ode_solvers.compat.torchdiffeq.errors import IntegrationError
from ode_solvers.compat.torchdiffeq.methods import EXTERNAL, GIVEN
from ode_solvers.compat.torchdiffeq.state import State

# torchdiffeq looks for an event without end, or for this many given steps.
_GIVEN_STEPS = 20_000
_FAR = 1e12


@dataclass(frozen=True)
class Entry:
    """One entry of what an event function returns."""

    event_fn: Callable[..., Tensor]
    index: int

    def __call__(self, t: Tensor, y: State) -> Tensor:
        """Return it at a time and a state."""
        return self.event_fn(t, y).reshape(-1)[self.index]


def until_event(
    call: Call, event_fn: Callable[..., Tensor], gradient: GradientMethod
) -> tuple[Tensor, State]:
    """Return the time of the first event, and the states at the start and there.

    Both have gradients through the time of the event. The second of the call's two times says only
    which way time runs. An entry that starts at zero is no event until it has left it. Raises
    ArgumentError for another number of times, and IntegrationError where no event is met.
    """
    if len(call.t) != 2:
        raise ArgumentError(
            f"with event_fn t is two times, the second only for the direction; got {len(call.t)}"
        )
    start, towards = call.t.detach().to(torch.float64).tolist()
    with torch.no_grad():
        entries = event_fn(call.t[0].detach().to(call.shape.dtype), call.y0).numel()
    far = start + math.copysign(_reach(call, start), towards - start)
    t = torch.stack([call.t[0].to(torch.float64), torch.tensor(far, dtype=torch.float64)])
    events = [Event(Entry(event_fn, index)) for index in range(entries)]
    solution = call.solve(gradient, t=t, event=events)
    found = solution.event
    if found is None:
        raise IntegrationError(
            f"{call.method.name} met no event from t = {start:.6g} to t = {far:.6g}; "
            "look at the sign of event_fn, and at the direction of t",
            solution,
        )
    if isinstance(call.y0, Tensor):
        return found.t.to(call.t), torch.stack([call.y0, found.y])
    pairs = zip(call.y0, found.y, strict=True)
    return found.t.to(call.t), tuple(torch.stack(pair) for pair in pairs)


def _reach(call: Call, start: float) -> float:
    if call.method.steps == EXTERNAL:
        raise ArgumentError(f"{call.method.name} looks for no events; take another method")
    if call.method.steps != GIVEN:
        return _FAR * max(1.0, abs(start))
    step_size = call.options.get("step_size")
    if step_size is None:
        raise ArgumentError(
            f"{call.method.name} looks for events with options={{'step_size': ...}} only"
        )
    return _GIVEN_STEPS * float(step_size)
