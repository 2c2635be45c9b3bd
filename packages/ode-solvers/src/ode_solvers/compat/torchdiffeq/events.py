"""odeint_event: the time at which an event function crosses zero, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ode_solvers.compat.torchdiffeq.odeint import odeint
from ode_solvers.compat.torchdiffeq.state import State


def odeint_event(
    func: Callable[..., Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[..., Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., tuple[Tensor, Any]] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Return the time of an event, 0-d, and the states at the start and there.

    Args:
        func: as for `odeint`.
        y0: as for `odeint`.
        t0: the start, a tensor of one element.
        event_fn: as for `odeint`; parameters of its own get gradients too.
        reverse_time: whether to look for the event in the past.
        odeint_interface: `odeint`, `odeint_adjoint`, or a function that is called like them.
        kwargs: handed on to `odeint_interface`.

    Raises what `odeint` does.
    """
    start = t0.reshape(1)
    towards = start.detach() + (-1.0 if reverse_time else 1.0)
    event_t, solution = odeint_interface(
        func, y0, torch.cat([start, towards]), event_fn=event_fn, **kwargs
    )
    single = isinstance(solution, Tensor)
    ends = [states[-1] for states in ((solution,) if single else solution)]
    if event_t.requires_grad or not any(end.requires_grad for end in ends):
        return event_t, solution
    # An interface of someone else's that differentiates the states at a fixed time only.
    moved, ends = _attached(func, event_fn, event_t, ends, single=single)
    joined = tuple(
        torch.cat([states[:-1], end[None]])
        for states, end in zip((solution,) if single else solution, ends, strict=True)
    )
    return moved, joined[0] if single else joined


def _attached(
    func: Callable[..., Any],
    event_fn: Callable[..., Tensor],
    t: Tensor,
    ends: list[Tensor],
    *,
    single: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Return an event's time and states with the gradients of its time.

    Source: Chen, Amos, Nickel, Learning neural event functions, ICLR 2021, section 3.1.
    """

    def shaped(tensors: list[Tensor]) -> Any:
        return tensors[0] if single else tuple(tensors)

    time = t.detach().to(ends[0].dtype.to_real()).requires_grad_()
    values = event_fn(time, shaped(ends)).reshape(-1)
    value = values[values.detach().abs().argmin()]
    with torch.no_grad():
        slope = func(time.detach(), shaped([end.detach() for end in ends]))
    slopes = [slope] if single else list(slope)
    pulls = torch.autograd.grad(value, [time, *ends], retain_graph=True, allow_unused=True)
    rate = torch.zeros_like(time) if pulls[0] is None else pulls[0]
    for pull, along in zip(pulls[1:], slopes, strict=True):
        rate = rate if pull is None else rate + (pull.conj() * along).real.sum()
    delta = -(value - value.detach()) / torch.where(rate == 0.0, 1.0, rate)
    moved = [end + along * delta for end, along in zip(ends, slopes, strict=True)]
    return t + delta.to(t), moved
