"""The augmented system that the continuous adjoint solves backwards, as one flat real vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ode_core import Tolerance

if TYPE_CHECKING:
    from torch import Tensor

    from ode_core.field import Field


class Augmented:
    """The field of [y, a, g] and, where times get gradients, of the integral of a df/dt.

    Packed as one flat real vector: complex states as pairs, parameters in the state's real dtype.
    """

    def __init__(
        self, field: Field, y0: Tensor, parameters: tuple[Tensor, ...], *, timed: bool
    ) -> None:
        self._field = field
        self._like = y0
        self._parameters = parameters
        self._timed = timed
        self._complex = y0.is_complex()
        size = y0.numel() * (2 if self._complex else 1)
        self._real = [p.numel() * (2 if p.is_complex() else 1) for p in parameters]
        self.segments = tuple(n for n in (size, size, sum(self._real), 1 if timed else 0) if n > 0)
        self._size = size

    @property
    def parameter_sizes(self) -> tuple[int, ...]:
        """The real numbers in each parameter, whose gradients stand between a and the times'."""
        return tuple(self._real)

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """Return the state at an output where nothing has been integrated yet."""
        head = torch.cat([self._flat(y), self._flat(a)])
        return torch.cat([head, head.new_zeros(sum(self.segments) - 2 * self._size)])

    def impulse(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """Return the state with y set anew and `a` added to the adjoint."""
        size = self._size
        adjoint = state[size : 2 * size] + self._flat(a)
        return torch.cat([self._flat(y), adjoint, state[2 * size :]])

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return y, a, the parameters' gradients in their own dtypes, and the integral over t."""
        size = self._size
        y = self._shaped(state[:size])
        a = self._shaped(state[size : 2 * size])
        end = 2 * size + sum(self._real)
        parts = state[2 * size : end].split(self._real) if self._real else ()
        grads = [
            _like(part, parameter) for part, parameter in zip(parts, self._parameters, strict=True)
        ]
        return y, a, grads, state[end:].sum()

    def tolerance(self, forward_tolerance: Tolerance, *, semi: bool) -> Tolerance:
        """Return the forward tolerance for the packed state, the norm being the largest block's.

        With `semi` the parameters' gradient, on which nothing else depends, is allowed any error.
        """
        rtol, atol = (self._spread(x) for x in (forward_tolerance.rtol, forward_tolerance.atol))
        if semi and self._real:
            dtype = torch.promote_types(self._like.dtype.to_real(), torch.float32)
            allowed = torch.as_tensor(atol, dtype=dtype, device=self._like.device)
            allowed = allowed.expand(sum(self.segments)).clone()
            allowed[2 * self._size :][: sum(self._real)] = float("inf")
            atol = allowed
        return Tolerance(rtol, atol, self.segments)

    def __call__(self, t: float, state: Tensor) -> Tensor:
        """Return the derivative of the packed state; one evaluation of f and one product with its
        Jacobian."""
        y, a = self._halves(state)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            time = torch.tensor(t, dtype=torch.float64, device=y.device, requires_grad=self._timed)
            slope = self._field(time if self._timed else t, y)
            inputs = [y, *self._parameters, *([time] if self._timed else [])]
            pulled: Sequence[Tensor | None] = [None] * len(inputs)
            if slope.requires_grad:
                pulled = torch.autograd.grad(slope, inputs, a, allow_unused=True)
        pieces = [self._flat(slope.detach())]
        pieces += [
            self._flat(torch.zeros_like(x) if g is None else g).neg()
            for x, g in zip(inputs, pulled, strict=True)
        ]
        return torch.cat(pieces)

    def _halves(self, state: Tensor) -> tuple[Tensor, Tensor]:
        size = self._size
        return self._shaped(state[:size]), self._shaped(state[size : 2 * size])

    def _flat(self, x: Tensor) -> Tensor:
        x = x.detach()
        real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        return real.reshape(-1).to(self._like.dtype.to_real())

    def _shaped(self, flat: Tensor) -> Tensor:
        if self._complex:
            flat = torch.view_as_complex(flat.reshape(-1, 2))
        return flat.reshape(self._like.shape)

    def _spread(self, value: float | Tensor) -> float | Tensor:
        """Return a tolerance for the packed state; other blocks than the state get its median."""
        if not isinstance(value, torch.Tensor):
            return value
        whole = self._flat(
            value.expand(self._like.shape)
            if not self._complex
            else torch.complex(value, value).expand(self._like.shape)
        )
        rest = sum(self.segments) - 2 * self._size
        return torch.cat([whole, whole, whole.median().expand(rest)])


def _like(part: Tensor, parameter: Tensor) -> Tensor:
    if parameter.is_complex():
        part = torch.view_as_complex(part.reshape(-1, 2))
    return part.reshape(parameter.shape).to(parameter.dtype)
