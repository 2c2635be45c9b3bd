"""A field as data: what a program of a whole solve is made for, and the tensors that it reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ode_solvers.expression import Expression

MOST_COMPONENTS = 16
MOST_ENTRIES = 128


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

    @property
    def refusal(self) -> str:
        """Why it cannot be solved whole, or nothing."""
        if max(self.sizes) > MOST_ENTRIES:
            return f"a layer is {max(self.sizes)} wide; {MOST_ENTRIES} is the most"
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

    @property
    def refusal(self) -> str:
        """Why it cannot be solved whole, or nothing."""
        if self.components > MOST_COMPONENTS:
            return f"there are {self.components} components; {MOST_COMPONENTS} is the most"
        return ""


FieldProgram = MLPProgram | ExpressionProgram
