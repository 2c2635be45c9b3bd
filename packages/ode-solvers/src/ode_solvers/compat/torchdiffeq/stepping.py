"""torchdiffeq's stepping on the core's loop: a solver and a controller around the real ones.

Both share an `Attempt`, so that they serve one solve only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ode_core import Solver, Step, Tolerance
from ode_core.problem import neighbours
from ode_core.rows import along

Callback = Callable[[Any, Any, Any], Any]


@dataclass
class Attempt:
    """The step that is being tried: the controller, which sees errors only, calls back with it."""

    t0: float = 0.0
    y0: Tensor = field(default_factory=lambda: torch.empty(0))
    size: float = 1.0


@dataclass(frozen=True)
class Callbacks:
    """The callbacks of func; each gets t0, the state and the size of a step, as tensors."""

    unpack: Callable[[Tensor], Any]
    time_dtype: torch.dtype
    step: Callback | None = None
    accept: Callback | None = None
    reject: Callback | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return not (self.step is None and self.accept is None and self.reject is None)

    def call(self, callback: Callback | None, attempt: Attempt) -> None:
        """Call one of them, if it is there."""
        if callback is not None:
            times = [attempt.t0, attempt.size]
            start, size = torch.tensor(times, dtype=self.time_dtype, device=attempt.y0.device)
            callback(start, self.unpack(attempt.y0), size)


@dataclass(frozen=True)
class StepControl:
    """torchdiffeq's choice of step sizes, which forgets every step but the last.

    An accepted step never shrinks the next; a rejected one may leave it growing. `scale` is
    torchdiffeq's error estimate as a fraction of the solver's. The loop keeps steps within `dt_min`
    and `dt_max`, and takes one of `dt_min` whatever its error, unless that is not finite.
    """

    attempt: Attempt
    callbacks: Callbacks
    scale: float = 1.0
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    dt_min: float = 0.0
    dt_max: float = math.inf

    def init(self) -> None:
        """Return no memory."""

    def judge(self, error: float, order: int, memory: None) -> tuple[bool, float, None]:
        """Return whether the step is accepted, and the factor on its size."""
        error *= self.scale
        accept = error <= 1.0
        if error == 0.0:
            factor = self.ifactor
        else:
            least = 1.0 if error < 1.0 else self.dfactor
            factor = min(self.ifactor, max(self.safety / error ** (1.0 / order), least))
        callbacks = self.callbacks
        callbacks.call(callbacks.accept if accept else callbacks.reject, self.attempt)
        return accept, factor, memory


class Stepper:
    """A solver with torchdiffeq's habits; whatever it does not change is the solver's own.

    It makes the callbacks, measures errors by `tolerance` in place of the core's, moves evaluations
    at the ends of steps inwards by one unit in the last place where `perturb` is the direction of
    time, 1.0 or -1.0, and interpolates linearly with `linear`.
    """

    def __init__(
        self,
        solver: Solver,
        attempt: Attempt,
        callbacks: Callbacks,
        *,
        tolerance: Tolerance | None = None,
        perturb: float = 0.0,
        linear: bool = False,
    ) -> None:
        self.solver = solver
        self._attempt = attempt
        self._callbacks = callbacks
        self._tolerance = tolerance
        self._perturb = perturb != 0.0
        self._direction = perturb
        # An instance attribute, so that a solver without an interpolant of its own has none here.
        if linear:
            self.interpolant = _linear
        elif perturb and hasattr(solver, "interpolant"):
            self.interpolant = self._perturbed_interpolant

    def __getattr__(self, name: str) -> Any:
        if name == "solver":
            raise AttributeError(name)
        return getattr(self.solver, name)

    @property
    def moving_times(self) -> bool:
        """Whether steps are differentiable in their ends, which no perturbed end is as a tensor."""
        floats = self.solver.one_step or not self._perturb
        return floats and getattr(self.solver, "moving_times", False)

    def init(self, field: Any, t: float, y: Tensor) -> Any:
        """Return the solver's carry."""
        return self.solver.init(self._inward(field, t, None, y), t, y)

    def step(
        self, field: Any, t0: float, t1: float, y: Tensor, carry: Any, tolerance: Tolerance | None
    ) -> Step:
        """Advance `y` from t0 to t1."""
        attempt = self._attempt
        attempt.t0, attempt.y0, attempt.size = t0, y, abs(t1 - t0)
        self._callbacks.call(self._callbacks.step, attempt)
        f = self._inward(field, t0, t1, y)
        own = tolerance if tolerance is None or self._tolerance is None else self._tolerance
        return self.solver.step(f, t0, t1, y, carry, own)

    def _inward(self, field: Any, t0: float, t1: float | None, y: Tensor) -> Any:
        return _Inward(field, t0, t1, y, self._direction) if self._perturb else field

    def _perturbed_interpolant(
        self, field: Any, t0: float, t1: float, y0: Tensor, step: Step
    ) -> Any:
        inner: Any = self.solver
        return inner.interpolant(self._inward(field, t0, t1, y0), t0, t1, y0, step)


def _linear(field: Any, t0: float, t1: float, y0: Tensor, step: Step) -> Callable[[float], Tensor]:
    del field, t0, t1

    def at(theta: float | Tensor) -> Tensor:
        if isinstance(theta, Tensor):
            return y0 + along(theta, y0) * (step.y - y0)
        return torch.lerp(y0, step.y, theta)

    return at


class _Inward:
    """A field that is never asked at the very ends of a step, where it may jump."""

    def __init__(
        self, field: Any, t0: float, t1: float | None, y: Tensor, direction: float
    ) -> None:
        self._field = field
        self._t0, self._t1 = t0, t1
        self._dtype = y.dtype.to_real()
        self._direction = direction

    def __call__(self, t: float, y: Tensor) -> Tensor:
        """Return what the field does, just inside of the step."""
        if t == self._t0:
            t = neighbours(t, self._dtype, self._direction)[1]
        elif t == self._t1:
            t = neighbours(t, self._dtype, self._direction)[0]
        return self._field(t, y)  # type: ignore[no-any-return]  # the user's function
