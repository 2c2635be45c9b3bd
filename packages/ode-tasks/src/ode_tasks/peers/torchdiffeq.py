"""torchdiffeq: `odeint`, and `odeint_adjoint` for gradients."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ode_tasks.peers.contest import (
    BACKWARD,
    CONTINUOUS,
    EXACT,
    Variant,
    missing,
    refuse,
    tolerances,
)
from ode_tasks.peers.in_torch import prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from ode_tasks.peers.contest import Prepared
    from ode_tasks.peers.works import Posed, Work

# The suite's name of a method: torchdiffeq's, calls of f at the start and for each step.
_METHODS = {"dopri5": ("dopri5", 2, 6), "rk4_38": ("rk4", 0, 4)}


class Torchdiffeq:
    """torchdiffeq: one step size for the whole state, an integral controller."""

    name = "torchdiffeq"
    estimate = 2.0 / 3.0

    @property
    def missing(self) -> str:
        """The pip requirement, "" where it is installed."""
        return missing("torchdiffeq", "torchdiffeq")

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return `odeint`, and `odeint_adjoint` where a gradient is asked for."""
        if work.solver not in _METHODS:
            raise refuse(self.name, work.solver)
        if direction == BACKWARD:
            return Variant("odeint", EXACT), Variant("odeint_adjoint", CONTINUOUS)
        return (Variant("odeint"),)

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the solve with its defaults but for tolerance and step size."""
        del threads
        work = posed.work
        call: Any = getattr(importlib.import_module("torchdiffeq"), variant.name)
        method, first, each = _METHODS[work.solver]
        rtol, atol = tolerances(work, self.estimate)
        options = {} if work.dt is None else {"options": {"step_size": work.dt}}

        def states(field: nn.Module, y0: Tensor) -> Tensor:
            ys: Tensor = call(field, y0, posed.t, rtol=rtol, atol=atol, method=method, **options)
            return ys

        return prepared(posed, direction, states, lambda calls: (calls - first) // each)
