"""A field as data: what a program of a whole solve is made for, and the tensors that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ode_solvers.expression import Expression

ACTIVATIONS = ("tanh", "sigmoid", "softplus", "silu", "relu")
_WEIGHT_BYTES = 16384
_REGISTERS = 140
"""What was found, for two generations of GPUs, to be solved without memory for registers."""


@dataclass(frozen=True, eq=False)
class MLPProgram:
    """A perceptron: the widths of input, layers and output, and weights and biases in turn."""

    sizes: tuple[int, ...]
    activation: str
    time: bool
    tensors: tuple[Tensor, ...]

    @property
    def components(self) -> int:
        """How many tiles a state has."""
        return 1

    def refusal(self, width: int, slopes: int, itemsize: int, *, recorded: bool) -> str:
        """Return why numbers of so many bytes cannot go whole, with gradients or without."""
        del width, slopes
        most = _WEIGHT_BYTES // 2 if recorded and itemsize == 8 else _WEIGHT_BYTES
        padded = [1 << (size - 1).bit_length() for size in self.sizes]
        room = sum(a * b for a, b in pairwise(padded)) * itemsize
        if room > most:
            return (
                f"the weights, their sizes rounded up to powers of two, take {room} bytes; "
                f"{most} is the most"
            )
        return ""


@dataclass(frozen=True, eq=False)
class ExpressionProgram:
    """An expression, its transpose, the number of components (None: any entry) and parameters."""

    forward: Expression
    transpose: Expression
    size: int | None
    tensors: tuple[Tensor, ...]

    @property
    def components(self) -> int:
        """How many tiles a state has."""
        return self.size or 1

    def refusal(self, width: int, slopes: int, itemsize: int, *, recorded: bool) -> str:
        """Return why states of so many entries, and steps of so many slopes, cannot go whole."""
        # Backwards every slope has a gradient.
        slopes *= 1 + recorded
        held = self.components * -(-width // 32)
        if held * (slopes + 6) * itemsize // 4 > _REGISTERS:
            return (
                f"{self.components * width} entries, {slopes} slopes each, take too many registers"
            )
        return ""


FieldProgram = MLPProgram | ExpressionProgram
