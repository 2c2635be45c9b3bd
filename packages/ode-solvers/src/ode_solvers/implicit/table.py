"""An implicit Runge-Kutta method as data, cut into the systems that a step solves one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ode_core import ArgumentError
from ode_solvers.tableau import Number, Row, Tableau, floats, row_of

_SLACK = 1e-12


@dataclass(frozen=True, eq=False)
class Mode:
    """One eigenvalue of a block's inverse matrix, or a conjugate pair by its upper half.

    `shift` is the index of the eigenvalue among the table's; `right` and `left` are `[m]`, the
    eigenvector and the matching row of the inverse of their matrix.
    """

    shift: int
    right: NDArray[Any]
    left: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Block:
    """Stages that are solved together: those from `start` to `stop`, with their own matrix.

    `couplings` are the weights of the earlier slopes on each stage, `a` is the `[m, m]` block of
    the table, `inverse` its inverse, and `modes` diagonalise that. An explicit stage is a block
    with no matrix.
    """

    start: int
    stop: int
    couplings: tuple[Row, ...]
    a: NDArray[np.float64] | None = None
    inverse: NDArray[np.float64] | None = None
    modes: tuple[Mode, ...] = ()

    @property
    def size(self) -> int:
        """The number of stages."""
        return self.stop - self.start


@dataclass(frozen=True, init=False)
class ImplicitTableau(Tableau):
    """A Runge-Kutta method whose rows may reach the diagonal and beyond it.

    It is checked like an explicit one. `filtered` says that the error estimate is multiplied by
    (I - h J / g)^-1, g being the real eigenvalue of the blocks' inverses, without which a stiff
    component would be thought as wrong as an explicit method would have it.

    Source of the transformation: Hairer and Wanner, Solving Ordinary Differential Equations II,
    section IV.8; of the filter: Shampine, SIAM J. Sci. Stat. Comput. 5 (1984).
    """

    filtered: bool

    def __init__(
        self,
        a: Sequence[Sequence[Number]],
        b: Sequence[Number],
        c: Sequence[Number],
        order: int,
        name: str,
        *,
        filtered: bool = False,
        **others: Any,
    ) -> None:
        object.__setattr__(self, "filtered", filtered)
        super().__init__(a, b, c, order, name, **others)
        if filtered and not any(mode.left.dtype.kind == "f" for mode in self.modes):
            raise ArgumentError(
                f"the error estimate of tableau {name!r} cannot be filtered: no eigenvalue of its "
                "inverse is real"
            )

    # A hash over every number would cost more than what is looked up by it.
    def __hash__(self) -> int:
        return hash(self.name)

    @staticmethod
    def _row(row: Sequence[Number], index: int, name: str, stages: int) -> tuple[float, ...]:
        values = floats(row)
        if len(values) > stages:
            raise ArgumentError(
                f"row {index} of tableau {name!r} has {len(values)} entries for {stages} stages"
            )
        return values + (0.0,) * (stages - len(values))

    def _ends_in_solution(self) -> bool:
        # Stiffly accurate.
        return self.c[-1] == 1.0 and self.a[-1] == self.b

    @cached_property
    def first_is_explicit(self) -> bool:
        """Whether the first stage is the slope at the start, which the step before knows."""
        return self.c[0] == 0.0 and not any(self.a[0])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The systems of a step, in order."""
        return self._solved[0]

    @cached_property
    def shifts(self) -> tuple[complex, ...]:
        """The eigenvalues g of the blocks' inverses: systems with g/h I - J are solved."""
        return self._solved[1]

    @cached_property
    def modes(self) -> tuple[Mode, ...]:
        """Every block's modes."""
        return tuple(mode for block in self.blocks for mode in block.modes)

    @cached_property
    def predictors(self) -> tuple[Row, ...]:
        """For each stage the weights of earlier slopes that extrapolate to its node."""
        rows = []
        for index, node in enumerate(self.c):
            known: dict[float, int] = {}
            for earlier in range(index):
                known[self.c[earlier]] = earlier
            weights = [0.0] * index
            for own, place in known.items():
                others = [x for x in known if x != own]
                weights[place] = float(np.prod([(node - x) / (own - x) for x in others]))
            rows.append(row_of(weights))
        return tuple(rows)

    @cached_property
    def _solved(self) -> tuple[tuple[Block, ...], tuple[complex, ...]]:
        matrix, start = np.array(self.a), 0
        shifts: list[complex] = []
        blocks: list[Block] = []
        while start < self.stages:
            stop = start + 1
            while np.any(matrix[start:stop, stop:]):
                stop += 1
            couplings = tuple(row_of(row) for row in matrix[start:stop, :start])
            own = matrix[start:stop, start:stop]
            block = Block(start, stop, couplings)
            if np.any(own):
                block = _diagonal(block, own, shifts, self.name)
            blocks.append(block)
            start = stop
        return tuple(blocks), tuple(shifts)


def _diagonal(block: Block, own: NDArray[np.float64], shifts: list[complex], name: str) -> Block:
    """Return the block with its modes; new eigenvalues are added to `shifts`."""
    inverse = np.linalg.inv(own)
    values, right = np.linalg.eig(inverse.astype(complex))
    left = np.linalg.inv(right)
    if np.abs(right * values @ left - inverse).max() > _SLACK * np.abs(inverse).max():
        raise ArgumentError(
            f"stages {block.start} to {block.stop - 1} of tableau {name!r} are not diagonalisable; "
            "order them so that each is solved after those that it needs"
        )
    modes = []
    for value, column, row in zip(values, right.T, left, strict=True):
        if value.imag < -_SLACK:
            continue
        pair = value.imag > _SLACK
        shift = complex(value) if pair else complex(value.real)
        near = [i for i, known in enumerate(shifts) if abs(known - shift) < 1e-9 * abs(shift)]
        if not near:
            shifts.append(shift)
        place = near[0] if near else len(shifts) - 1
        scale = column[np.abs(column).argmax()]
        right_left = column / scale, row * scale
        modes.append(Mode(place, *(right_left if pair else (x.real for x in right_left))))
    given = {field.name: getattr(block, field.name) for field in fields(block)}
    return Block(**(given | {"a": own, "inverse": inverse, "modes": tuple(modes)}))
