"""The adjoint system as two states side by side, which an explicit method advances together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.autograd.graph import _engine_run_backward

from ode_core import Tolerance

if TYPE_CHECKING:
    from torch import Tensor

    from ode_solvers.gradients.augmented import Field, Path, Pulled


Halves = tuple["Tensor | None", "Tensor"]
"""A state, None along a path, and its adjoint."""


class Slopes(NamedTuple):
    """What one evaluation of f tells: y', a df/dy, and a df/dx for every x."""

    y: Tensor
    a: Tensor
    pulled: Pulled


class Pair:
    """The field of [y, a], `[2, ...]` of two states; along a `path` of [a] alone, `[1, ...]`.

    `parameters` are the x for which a df/dx is wanted at stages that ask for it; where times get
    gradients, the time is a last one of them.
    """

    def __init__(
        self,
        field: Field,
        y0: Tensor,
        parameters: tuple[Tensor, ...],
        *,
        timed: bool,
        path: Path | None = None,
    ) -> None:
        self.field = field
        self._parameters = parameters
        self._timed = timed
        self._path = path
        # Halves keep the memory format that y0 has.
        self._contiguous = y0.is_contiguous()
        self._strides = torch.empty_like(y0, device="meta").stride()

    def halves(self, state: Tensor) -> Halves:
        """Return both halves of a state."""
        if self._path is not None:
            return None, state[0]
        y, a = state.unbind(0)
        return y, a

    def pack(self, y: Tensor | None, a: Tensor) -> Tensor:
        """Return the state that has these halves, in fresh memory."""
        halves = [a] if y is None or self._path is not None else [y, a]
        if self._contiguous:
            return torch.stack(halves)
        packed = a.new_empty_strided((len(halves), *a.shape), (a.numel(), *self._strides))
        for place, half in zip(packed, halves, strict=True):
            place.copy_(half)
        return packed

    def impulse(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """Return the state with y set anew and `a` added to the adjoint."""
        return self.pack(y, state[-1] + a)

    def anchored(self, state: Tensor, y: Tensor) -> Tensor:
        """Return the state with y set anew."""
        return self.pack(y, state[-1])

    def rebuilt(self, state: Tensor) -> Tensor | None:
        """Return the y that the backward solve has come to, None where it reads it from a path."""
        return state[0] if self._path is None else None

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return y, a, and nothing about parameters and times, whose gradients are sums outside."""
        return state[0], state[-1], [], torch.zeros(())

    def tolerance(self, forward_tolerance: Tolerance, *, semi: bool) -> Tolerance:
        """Return the forward tolerance for the two halves, the norm being the larger one's."""
        del semi
        halves = (1,) if self._path is not None else (1, 1)
        return Tolerance(forward_tolerance.rtol, forward_tolerance.atol, halves)

    def __call__(self, t: float, state: Tensor) -> Tensor:
        """Return the derivative of the packed state."""
        slopes = self.slopes(t, self.halves(state), wanted=False)
        return self.pack(slopes.y, -slopes.a)

    def state(self, t: float, half: Tensor | None) -> Tensor:
        """Return the state, that of the path where it is no half."""
        if half is None:
            assert self._path is not None  # else there is a half
            half = self._path(t)
        return half

    def slopes(self, t: float, halves: Halves, *, wanted: bool) -> Slopes:
        """Return y' and a df/dy at a state and its adjoint, and if `wanted` a df/dx."""
        y, a = self.state(t, halves[0]), halves[1]
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            time: float | Tensor = t
            inputs: tuple[Tensor, ...] = (y, *self._parameters) if wanted else (y,)
            if self._timed and wanted:
                time = torch.tensor(t, dtype=torch.float64, device=y.device, requires_grad=True)
                inputs = (*inputs, time)
            slope = self.field(time, y)
        own = slope.detach()
        if not slope.requires_grad:
            return Slopes(own, torch.zeros_like(y), ())
        # What torch.autograd.grad does, without the checks of what is known to be right here.
        found, *pulled = _engine_run_backward(
            (slope,), (a,), False, False, inputs, allow_unreachable=True, accumulate_grad=False
        )
        return Slopes(own, torch.zeros_like(y) if found is None else found, pulled)
