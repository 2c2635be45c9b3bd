"""odeint and odeint_dense: a solve by name, and the solution as a function of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import Direct, Solution
from ode_solvers.compat.torchdiffeq.call import Call
from ode_solvers.compat.torchdiffeq.crossing import until_event
from ode_solvers.compat.torchdiffeq.state import Function, State


def odeint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0, as torchdiffeq's function of that name does.

    Args:
        func: `func(t, y) -> dy/dt`; `t` is a 0-d tensor in the state's real dtype. Its callbacks
            `callback_step`, `callback_accept_step` and `callback_reject_step`, where it has them,
            get `(t0, y0, dt)`.
        y0: a tensor, or a tuple of tensors, which are solved in their common dtype.
        t: `[T]`, rising or falling.
        rtol: relative tolerance, a number, a tensor that broadcasts to the state, or a tuple.
        atol: absolute tolerance, likewise.
        method: one of torchdiffeq's names; default dopri5.
        options: the method's options.
        event_fn: `event_fn(t, y)`, of any shape; `t` is then two times, of which the second says
            which way time runs, and the solve ends where the first of its entries crosses zero.

    Returns:
        The states at the times, `[T, ...]`, or a tuple of such; with `event_fn` the time of the
        event, 0-d, and the states at the start and there.

    Raises:
        ArgumentError: a ValueError, for what cannot be used.
        IntegrationError: an AssertionError, where the solve cannot be finished.

    """
    call = Call.of(func, y0, t, (rtol, atol), method, options)
    return call.solve(Direct()).ys if event_fn is None else until_event(call, event_fn, Direct())


def odeint_dense(
    func: Callable[..., Any],
    y0: State,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """Return the solution from t0 to t1 as a function of time, for any method and state.

    The function takes a number, a 0-d tensor, or `[n]` times, and returns the state `[...]`, or
    `[n, ...]`. Raises what `odeint` does, and ArgumentError for a time outside of the solve.
    """
    t = torch.stack([torch.as_tensor(x, dtype=torch.float64).reshape(()) for x in (t0, t1)])
    call = Call.of(func, y0, t, (rtol, atol), method, options)
    return Dense(call.solve(Direct(), dense=True), Function(func, call.y0))


@dataclass(frozen=True, eq=False)
class Dense:
    """A solution as a function of time, differentiable in it too."""

    solution: Solution
    function: Function

    def __call__(self, t: Any) -> State:
        """Return the state at a number, `[...]`, or at `[n]` times, `[n, ...]`."""
        if not (isinstance(t, Tensor) and t.requires_grad and torch.is_grad_enabled()):
            return self.solution.interpolate(t)
        if t.dim():
            rows = [self(time) for time in t]
            if isinstance(rows[0], Tensor):
                return torch.stack(rows)
            return tuple(torch.stack(column) for column in zip(*rows, strict=True))
        y = self.solution.interpolate(t.detach())
        delta = t - t.detach()
        if isinstance(y, Tensor):
            return y + self.function(t.detach().to(y.dtype.to_real()), y) * delta
        slopes = self.function(t.detach().to(y[0].dtype.to_real()), y)
        return tuple(x + slope * delta for x, slope in zip(y, slopes, strict=True))
