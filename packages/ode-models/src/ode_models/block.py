"""A vector field and how to solve it, as one layer of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ode_core import ArgumentError, Verified, gradients, solve, solvers

if TYPE_CHECKING:
    from ode_core import Compile, Compiled, GradientMethod, Solver, Stats
    from ode_models.rnode import RNODE


class ODEBlock(nn.Module):
    """The flow of a vector field from the first of its times to the others.

    `field(t, y) -> dy/dt` is a module or any callable. `t` are two times or more, in one
    direction; solver, gradient, tolerances, `dt`, stepping and `compile` are those of
    `ode_core.solve`. `stats` says what the last call cost, `compiled` what of it was compiled, None
    before it; they are no part of the state dict. With
    `verify` the first backward pass is compared with that by `direct` (`ode_core.Verified`).
    In training a `regulariser` leaves in `penalty` what is to be added to the loss, 0-d; it is None
    in evaluation, where nothing is spent on it.

    Raises ArgumentError for times that cannot be solved over and for settings that do not go
    together, UnknownNameError for a solver or gradient method that nobody registers.
    """

    def __init__(
        self,
        field: Callable[[Tensor, Any], Any],
        t: Sequence[float] = (0.0, 1.0),
        *,
        solver: str | Solver = "dopri5",
        gradient: str | GradientMethod = "direct",
        rtol: float | None = None,
        atol: float | None = None,
        dt: float | None = None,
        stepping: str = "shared",
        verify: bool = False,
        compile: bool | str | Compile = False,
        regulariser: RNODE | None = None,
    ) -> None:
        super().__init__()
        if stepping not in ("shared", "per_sample"):
            raise ArgumentError(f"stepping is 'shared' or 'per_sample'; got {stepping!r}")
        check_settings(field, solver, gradient, rtol=rtol, atol=atol, dt=dt)
        times = tuple(float(time) for time in t)
        rising = all(a < b for a, b in pairwise(times))
        falling = all(a > b for a, b in pairwise(times))
        if len(times) < 2 or not (rising or falling) or not all(map(math.isfinite, times)):
            raise ArgumentError(
                f"t is two times or more, strictly rising or falling; got {list(times)[:6]}"
            )
        self.field = field
        self.t = times
        self.solver = solver
        self.gradient = Verified(gradient) if verify else gradient
        self.rtol = rtol
        self.atol = atol
        self.dt = dt
        self.stepping = stepping
        # `compile` is a method of every module.
        self.compiling = compile
        self.compiled: Compiled | None = None
        self.stats: Stats | None = None
        self.regulariser = regulariser
        self.penalty: Tensor | None = None

    def forward(self, y0: Any, *args: Any) -> Any:
        """Return the state at the last of two times, like `y0`, or all of more, `[T, ...]`.

        `y0` is whatever `ode_core.solve` takes: a tensor, or a structure of tensors. The field is
        called as `field(t, y, *args)`.
        """
        regulariser = self.regulariser if self.training else None
        solution = solve(
            self.field,
            y0,
            self.t,
            solver=self.solver,
            gradient=self.gradient,
            rtol=self.rtol,
            atol=self.atol,
            dt=self.dt,
            stepping=self.stepping,
            compile=self.compiling,
            args=args,
            integrand=regulariser.integrand(self.field, y0) if regulariser else None,
        )
        self.penalty = solution.integrals[-1] if regulariser else None
        self.stats, self.compiled = solution.stats, solution.compiled
        if len(self.t) > 2:
            return solution.ys
        return pytree.tree_map(lambda states: states[-1], solution.ys)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no part in a graph.
        return {**self.__dict__, "penalty": None}

    def extra_repr(self) -> str:
        """Return the settings for `print(model)`."""
        parts: dict[str, Any] = {
            "t": self.t,
            "solver": getattr(self.solver, "name", self.solver),
            "gradient": getattr(self.gradient, "name", self.gradient),
            "rtol": self.rtol,
            "atol": self.atol,
            "dt": self.dt,
            "stepping": None if self.stepping == "shared" else self.stepping,
            "compile": self.compiling or None,
            "verify": True if isinstance(self.gradient, Verified) else None,
            "regulariser": self.regulariser or None,
        }
        return ", ".join(f"{name}={value}" for name, value in parts.items() if value is not None)


def check_settings(
    field: Any,
    solver: str | Solver,
    gradient: str | GradientMethod,
    *,
    rtol: float | None,
    atol: float | None,
    dt: float | None,
) -> None:
    """Refuse what every solve would refuse, where it is written and not in the first batch.

    Raises ArgumentError, or UnknownNameError for a name that nobody registers.
    """
    if not callable(field) or isinstance(field, type):
        raise ArgumentError(f"field is a module or function f(t, y) -> dy/dt; got {field!r:.60}")
    if isinstance(gradient, str):
        gradients[gradient]  # raises for an unknown name
    known = solvers[solver] if isinstance(solver, str) else solver
    if dt is not None and not 0.0 < dt < math.inf:
        raise ArgumentError(f"dt is a number above 0; got {dt!r}")
    if known.adaptive:
        return
    if rtol is not None or atol is not None:
        raise ArgumentError(
            f"{known.name} takes fixed steps, so rtol and atol have no effect; leave them out, or "
            "take an adaptive solver such as 'dopri5'"
        )
    if dt is None:
        raise ArgumentError(
            f"{known.name} takes fixed steps: pass dt=..., or take an adaptive solver such as "
            "'dopri5'"
        )


def append_time(t: Tensor, y: Tensor) -> Tensor:
    """Return `y`, `[B, C, ...]`, with the time as one more entry of dim 1."""
    times = t.to(y.dtype).expand(y.shape[0], 1, *y.shape[2:])
    if y.dim() == 4 and not y.is_contiguous() and y.is_contiguous(memory_format=_LAST):
        # What is put together lies as its parts do, if they agree.
        times = times.contiguous(memory_format=_LAST)
    return torch.cat([y, times], 1)


_LAST = torch.channels_last
