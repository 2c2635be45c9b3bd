"""A call of one of torchdiffeq's functions, understood once and handed to the core's solve."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import (
    CompatibilityWarning,
    GradientMethod,
    Solution,
    SolveError,
    Tolerance,
    solve,
)
from ode_solvers.compat.torchdiffeq.errors import IntegrationError
from ode_solvers.compat.torchdiffeq.methods import GIVEN, Method, method_named
from ode_solvers.compat.torchdiffeq.norms import UserTolerance, state_norm
from ode_solvers.compat.torchdiffeq.settings import Settings, settings
from ode_solvers.compat.torchdiffeq.state import Function, Shape, State, packed_tolerance, promoted
from ode_solvers.compat.torchdiffeq.stepping import Callback, Callbacks

NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass(frozen=True)
class Call:
    """A call of odeint, with names and options understood; `shape` is how the state is packed."""

    func: Callable[..., Any]
    y0: State
    t: Tensor
    rtol: Any
    atol: Any
    method: Method
    options: Mapping[str, Any]
    shape: Shape

    @classmethod
    def of(
        cls,
        func: Callable[..., Any],
        y0: State,
        t: Any,
        tolerances: tuple[Any, Any],
        method: str | None,
        options: Mapping[str, Any] | None,
    ) -> Call:
        """Check what a user gave; warns of options and callbacks that have no effect."""
        chosen, options = method_named(method), dict(options or {})
        chosen.warn_of_unknown(options)
        lost = sorted(
            name for name in NAMES if hasattr(func, name) and name not in chosen.callbacks
        )
        if lost:
            warnings.warn(
                f"{chosen.name} never calls {', '.join(lost)}", CompatibilityWarning, stacklevel=3
            )
        times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
        state = promoted(y0)
        return cls(func, state, times, *tolerances, chosen, options, Shape.of(state))

    @property
    def time_dtype(self) -> torch.dtype:
        """The dtype in which callbacks get times."""
        return torch.promote_types(self.options.get("dtype", torch.float64), self.shape.dtype)

    def tolerance(self) -> Tolerance | None:
        """Return the tolerance where it is not what the core's own would be.

        So it is for tuples and norms of the user's, and where rtol is below what the core thinks
        the state's dtype can hold: torchdiffeq's default of 1e-7 is, for float32.
        """
        norm, shape = self.options.get("norm"), self.shape
        rtol, atol = self.packed_tolerances()
        if norm is not None:
            return UserTolerance(rtol, atol, measure=state_norm(norm, shape.unpack))
        if not isinstance(self.y0, Tensor):
            return Tolerance(rtol, atol, shape.sizes)
        low = isinstance(rtol, float) and rtol < shape.least
        return Tolerance(rtol, atol) if low else None

    def packed_tolerances(self) -> tuple[float | Tensor, float | Tensor]:
        """Return rtol and atol for the packed state."""
        rtol = packed_tolerance(self.rtol, self.y0, "rtol")
        return rtol, packed_tolerance(self.atol, self.y0, "atol")

    def core_tolerances(self) -> dict[str, Any]:
        """Return rtol and atol for the core's solve: none for given steps."""
        if self.method.steps == GIVEN:
            return {}
        rtol, atol = self.packed_tolerances()
        rtol = max(rtol, self.shape.least) if isinstance(rtol, float) else rtol
        if isinstance(self.y0, Tensor):
            return {"rtol": rtol, "atol": atol}
        unpack = self.shape.unpack
        return {
            name: unpack(value) if isinstance(value, Tensor) else value
            for name, value in (("rtol", rtol), ("atol", atol))
        }

    def grid(self, constructor: Callable[..., Any]) -> Any:
        """Return the nodes that a grid constructor makes of func, y0 and t."""
        return constructor(self.func, self.y0, self.t.detach())

    def settings(self) -> Settings:
        """Return what the core's solve takes beside f, y0, t and the tolerances."""
        step, accept, reject = callbacks_of(self.func)
        callbacks = Callbacks(self.shape.unpack, self.time_dtype, step, accept, reject)
        return settings(
            self.method,
            self.options,
            self.t.detach(),
            callbacks,
            tolerance=self.tolerance(),
            grid=self.grid,
        )

    def solve(self, gradient: GradientMethod, **more: Any) -> Solution:
        """Solve; raises IntegrationError where that cannot be finished."""
        chosen = self.settings()
        arguments: dict[str, Any] = {
            "solver": chosen.solver,
            "gradient": gradient,
            "controller": chosen.controller,
            "dt": chosen.dt,
            "jump_times": chosen.jump_times,
            "max_steps": chosen.max_steps,
        }
        f = Function(self.func, self.y0)
        t = more.pop("t", self.t)
        try:
            return solve(f, self.y0, t, **arguments, **self.core_tolerances(), **more)
        except SolveError as error:
            raise IntegrationError(str(error), error.solution) from error


def callbacks_of(func: Callable[..., Any], suffix: str = "") -> tuple[Callback | None, ...]:
    """Return func's callbacks, in the order of NAMES, None where it has none."""
    return tuple(getattr(func, name + suffix, None) for name in NAMES)
