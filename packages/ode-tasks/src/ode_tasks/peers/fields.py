"""The vector fields that everyone is given: in torch, and in any array library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ArrayField = Callable[[Any, Any, Sequence[Any]], Any]


class Arrays(Protocol):
    """The operations of an array library that the fields need beside Python's own."""

    def tanh(self, x: Any) -> Any:
        """Return the hyperbolic tangent of every entry."""

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Return the parts joined along an axis."""

    def convolution(self, x: Any, weight: Any) -> Any:
        """Return a 3x3 convolution `[B, C, H, W]` with zeros around; raises UnsupportedError."""


class Field(nn.Module):
    """A vector field in torch, which can also be written in another array library.

    The weights of what `written_in` returns are its parameters in their order, then its `rows`.
    """

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """What differs from sample to sample: tensors `[B, ...]`."""
        return ()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt at `t` (0-d, or `[B]` with one step size a sample), like `y`."""
        raise NotImplementedError

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""
        raise NotImplementedError


class Decay(Field):
    """y' = -y: one operation, so that nearly all the time is the solver's own."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return -y."""
        return -y

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""
        del arrays
        return lambda t, y, weights: -y


class Oscillator(Field):
    """q' = v, v' = -q, whose number of steps grows with the time that it is solved over."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return (v, -q) for a state `[B, 2 n]`, whose first half is q."""
        q, v = y.chunk(2, 1)
        return torch.cat((v, -q), 1)

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""

        def f(t: Any, y: Any, weights: Sequence[Any]) -> Any:
            half = y.shape[1] // 2
            return arrays.concatenate((y[:, half:], -y[:, :half]), 1)

        return f


class VanDerPol(Field):
    """q' = v, v' = mu (1 - q^2) v - q, with another mu for each sample of the batch."""

    def __init__(self, mu: Tensor) -> None:
        super().__init__()
        self.mu = nn.Buffer(mu)

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """The `[B, 1]` values of mu."""
        return (self.mu,)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope of a state `[B, 2]`."""
        q, v = y[:, :1], y[:, 1:]
        return torch.cat((v, self.mu * (1.0 - q * q) * v - q), 1)

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""

        def f(t: Any, y: Any, weights: Sequence[Any]) -> Any:
            (mu,), q, v = weights, y[:, :1], y[:, 1:]
            return arrays.concatenate((v, mu * (1.0 - q * q) * v - q), 1)

        return f


class VanDerPolInState(Field):
    """Van der Pol's equation whose mu is a third component of the state, with slope 0.

    It knows nothing of the batch, so that samples that have finished can leave it.
    """

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope of a state `[B, 3]`."""
        q, v, mu = y[:, :1], y[:, 1:2], y[:, 2:]
        return torch.cat((v, mu * (1.0 - q * q) * v - q, torch.zeros_like(mu)), 1)

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""

        def f(t: Any, y: Any, weights: Sequence[Any]) -> Any:
            q, v, mu = y[:, :1], y[:, 1:2], y[:, 2:]
            return arrays.concatenate((v, mu * (1.0 - q * q) * v - q, 0.0 * mu), 1)

        return f


class Perceptron(Field):
    """Linear, tanh, linear on a state `[B, size]`."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, hidden)
        self.outer = nn.Linear(hidden, size)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope, like `y`."""
        out: Tensor = self.outer(torch.tanh(self.inner(y)))
        return out

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""

        def f(t: Any, y: Any, weights: Sequence[Any]) -> Any:
            a, b, c, d = weights
            return arrays.tanh(y @ a.T + b) @ c.T + d

        return f


class Convolution(Field):
    """The tanh of a 3x3 convolution with as many channels as it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope of a state `[B, C, H, W]`."""
        return torch.tanh(self.layer(y))

    def written_in(self, arrays: Arrays) -> ArrayField:
        """Return `f(t, y, weights)` in the given library."""

        def f(t: Any, y: Any, weights: Sequence[Any]) -> Any:
            weight, bias = weights
            return arrays.tanh(arrays.convolution(y, weight) + bias[:, None, None])

        return f
