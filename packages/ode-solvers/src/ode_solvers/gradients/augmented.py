"""The system that the continuous adjoint solves backwards, as one flat real vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ode_core import Tolerance

if TYPE_CHECKING:
    from torch import Tensor

    Field = Callable[[float | Tensor, Tensor], Tensor]
    Pulled = Sequence[Tensor | None]

Path = Callable[[float], "Tensor"]
"""The state at a time within the forward solve."""


class Augmented:
    """The field of [y, a, g] and, where times get gradients, of the integral of a df/dt.

    Packed as one flat real vector: complex states as pairs, parameters in the state's real dtype.
    With a `path` y is read from it and has no part in the vector. `parameters` are those whose
    gradient g is in the vector; those of a quadrature outside of it are none of them.
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
        self._like = y0
        self._parameters = parameters
        self._timed = timed
        self._path = path
        self._complex = y0.is_complex()
        self._size = y0.numel() * (2 if self._complex else 1)
        # Where the adjoint begins: after y, or at once.
        self._head = 0 if path is not None else self._size
        self._real = [p.numel() * (2 if p.is_complex() else 1) for p in parameters]
        blocks = (self._head, self._size, sum(self._real), 1 if timed else 0)
        self.segments = tuple(n for n in blocks if n > 0)

    @property
    def parameter_sizes(self) -> tuple[int, ...]:
        """The real numbers in each parameter, whose gradients stand between a and the times'."""
        return tuple(self._real)

    def pack(self, y: Tensor, a: Tensor) -> Tensor:
        """Return the state at an output where nothing has been integrated yet."""
        parts = [self._flat(a)] if self._head == 0 else [self._flat(y), self._flat(a)]
        rest = sum(self.segments) - self._head - self._size
        return torch.cat([*parts, parts[0].new_zeros(rest)])

    def impulse(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """Return the state with y set anew and `a` added to the adjoint."""
        state = self.anchored(state, y)
        state[self._head : self._head + self._size] += self._flat(a)
        return state

    def anchored(self, state: Tensor, y: Tensor) -> Tensor:
        """Return the state with y set anew, in fresh memory."""
        state = state.clone()
        if self._head:
            state[: self._head] = self._flat(y)
        return state

    def rebuilt(self, state: Tensor) -> Tensor | None:
        """Return the y that the backward solve has come to, None where it reads it from a path."""
        return self._shaped(state[: self._head]) if self._head else None

    def unpack(self, state: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return y, a, the parameters' gradients in their own dtypes, and the integral over t.

        Along a path y is an empty vector.
        """
        y = state[: self._head]
        a = self._shaped(state[self._head : self._head + self._size])
        start = self._head + self._size
        end = start + sum(self._real)
        parts = state[start:end].split(self._real) if self._real else ()
        grads = [
            _like(part, parameter) for part, parameter in zip(parts, self._parameters, strict=True)
        ]
        return self._shaped(y) if self._head else y, a, grads, state[end:].sum()

    def tolerance(self, forward_tolerance: Tolerance, *, semi: bool) -> Tolerance:
        """Return the forward tolerance for the packed state, the norm being the largest block's.

        With `semi` the parameters' gradient, on which nothing else depends, is allowed any error.
        """
        rtol, atol = (self._spread(x) for x in (forward_tolerance.rtol, forward_tolerance.atol))
        if semi and self._real:
            dtype = torch.promote_types(self._like.dtype.to_real(), torch.float32)
            allowed = torch.as_tensor(atol, dtype=dtype, device=self._like.device)
            allowed = allowed.expand(sum(self.segments)).clone()
            allowed[self._head + self._size :][: sum(self._real)] = float("inf")
            atol = allowed
        return Tolerance(rtol, atol, self.segments)

    def __call__(self, t: float, state: Tensor) -> Tensor:
        """Return the derivative of the packed state; one evaluation of f and one product with its
        transposed Jacobian."""
        return self.slope(t, state, ())[0]

    def slope(self, t: float, state: Tensor, others: tuple[Tensor, ...]) -> tuple[Tensor, Pulled]:
        """Return the derivative of the packed state, and a df/dx for every x of `others`."""
        y, a = self._halves(t, state)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            time = self._time(t, y) if self._timed else t
            slope = self.field(time, y)
            inner = [y, *self._parameters]
            if isinstance(time, torch.Tensor):
                inner.append(time)
            inputs = [*inner, *others]
            pulled: Pulled = [None] * len(inputs)
            if slope.requires_grad:
                pulled = torch.autograd.grad(slope, inputs, a, allow_unused=True)
        out, place = torch.empty_like(state), self._head
        if self._head:
            out[: self._head] = self._flat(slope)
        for x, grad in zip(inner, pulled, strict=False):
            end = place + x.numel() * (2 if x.is_complex() else 1)
            if grad is None:
                out[place:end] = 0.0
            else:
                torch.neg(self._flat(grad), out=out[place:end])
            place = end
        return out, pulled[len(inner) :]

    def _time(self, t: float, y: Tensor) -> Tensor:
        return torch.tensor(t, dtype=torch.float64, device=y.device, requires_grad=True)

    def _halves(self, t: float, state: Tensor) -> tuple[Tensor, Tensor]:
        a = self._shaped(state[self._head : self._head + self._size])
        if self._path is not None:
            return self._path(t), a
        return self._shaped(state[: self._size]), a

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
        states = [whole] * (2 if self._head else 1)
        rest = sum(self.segments) - len(states) * self._size
        return torch.cat([*states, whole.median().expand(rest)])


def _like(part: Tensor, parameter: Tensor) -> Tensor:
    if parameter.is_complex():
        part = torch.view_as_complex(part.reshape(-1, 2))
    return part.reshape(parameter.shape).to(parameter.dtype)
