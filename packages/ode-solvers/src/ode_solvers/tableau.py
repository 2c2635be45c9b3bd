"""A Runge-Kutta method as data: a table that cannot be built with a wrong number in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ode_core import ArgumentError
from ode_solvers.trees import Weights, density, trees, vertices

Number = float | int | Fraction
Row = tuple[tuple[int, float], ...]
"""Pairs of stage index and weight, zeros left out: what a kernel adds up."""

Vector = NDArray[np.float64]
_SLACK = 2e-13


@dataclass(frozen=True)
class Dense:
    """Continuous output: weights b_i(theta) = sum_j coefficients[i][j] theta^(j+1).

    `a` and `c` are the rows and nodes of stages that only the output needs.
    """

    coefficients: tuple[tuple[float, ...], ...]
    order: int
    a: tuple[tuple[float, ...], ...] = ()
    c: tuple[float, ...] = ()

    def weights(self, theta: float) -> tuple[float, ...]:
        """Return b_i(theta) for every stage."""
        # By Horner's rule, as in C and `weights_at`: outputs are the same to the bit.
        found = []
        for row in self.coefficients:
            total = 0.0
            for coefficient in reversed(row):
                total = (total + coefficient) * theta
            found.append(total)
        return tuple(found)

    def weights_at(self, theta: Tensor) -> Tensor:
        """Return b_i(theta), `[n, B]` float64, of the stages that are `used`, at `[B]` thetas.

        A 0-d theta is one of them.
        """
        columns = torch.from_numpy(self.polynomials).to(theta).unsqueeze(-1).unbind(1)
        total = columns[-1] * theta
        for column in columns[-2::-1]:
            total = (total + column) * theta
        return total

    @property
    def degree(self) -> int:
        """The highest power of theta."""
        return len(self.coefficients[0])

    @cached_property
    def used(self) -> Row:
        """Stages that have a weight somewhere in the step, with their weights at its end."""
        rows = enumerate(self.coefficients)
        return tuple((index, sum(row)) for index, row in rows if any(row))

    @cached_property
    def polynomials(self) -> Vector:
        """The coefficients of those stages, `[n, degree]`."""
        return np.array([self.coefficients[index] for index, _ in self.used])


@dataclass(frozen=True, init=False)
class Tableau:
    """An explicit Runge-Kutta method: rows `a`, weights `b`, nodes `c`, and what belongs to them.

    Building one checks that each row sums to its node, the weights to 1, the error weights to 0,
    and every order condition up to the declared orders: of the method, of its embedded companion
    (`error_order`, by default one below) and of its continuous output at several points.

    `estimate_order` is the power of the step size with which the estimate falls.

    `b_error` are the weights of the error estimate, the method's minus the companion's; where it
    has one entry more than `b`, the last belongs to the slope at the end of the step. `b_error_low`
    is a second, cruder estimate with which the first is damped:
    e = e1^2 / sqrt(e1^2 + 0.01 e2^2) (Hairer, Nørsett, Wanner I, section II.10, eq. 10.17).

    `last_is_solution` says whether the last stage is evaluated at the new state, so that its slope
    serves twice; `stage_rows`, `solution_row` and `error_rows` are the stages after the first, the
    new state's weights and the error estimates' without their zeros. `sums` are the stages' rows up
    to the new state's.

    Raises ArgumentError that names the row, or the condition, which fails.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    b_error: tuple[float, ...] | None
    b_error_low: tuple[float, ...] | None
    dense: Dense | None
    source: str
    error_estimate: str
    estimate_order: int
    last_is_solution: bool = field(init=False, repr=False, compare=False)
    stage_rows: tuple[Row, ...] = field(init=False, repr=False, compare=False)
    solution_row: Row = field(init=False, repr=False, compare=False)
    sums: tuple[Row, ...] = field(init=False, repr=False, compare=False)
    error_rows: tuple[Row, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        a: Sequence[Sequence[Number]],
        b: Sequence[Number],
        c: Sequence[Number],
        order: int,
        name: str,
        *,
        b_error: Sequence[Number] | None = None,
        error_order: int | None = None,
        b_error_low: tuple[Sequence[Number], int] | None = None,
        dense: Dense | None = None,
        source: str = "",
        error_estimate: str = "",
    ) -> None:
        stages = len(b)
        if len(a) != stages or len(c) != stages:
            raise ArgumentError(
                f"tableau {name!r} has {len(a)} rows, {stages} weights and {len(c)} nodes; "
                "give one of each for every stage, the first row empty"
            )
        rows = tuple(self._row(row, index, name, stages) for index, row in enumerate(a))
        estimate = error_estimate or f"embedded error estimate of {name}"
        for part, value in (
            ("name", name),
            ("order", order),
            ("a", rows),
            ("b", floats(b)),
            ("c", floats(c)),
            ("b_error", None if b_error is None else floats(b_error)),
            ("b_error_low", None if b_error_low is None else floats(b_error_low[0])),
            ("dense", dense),
            ("source", source),
            ("error_estimate", estimate),
        ):
            object.__setattr__(self, part, value)
        self._derive()
        embedded = order - 1 if error_order is None else error_order
        # Damped by a second one, an estimate is as good as the method.
        local = order if b_error_low is not None else min(order, embedded) + 1
        object.__setattr__(self, "estimate_order", local)
        self._verify(embedded)
        if b_error_low is not None and self.b_error_low is not None:
            self._verify_error(self.b_error_low, b_error_low[1])

    def _derive(self) -> None:
        # Once and here: torch.compile cannot trace what is worked out when it is first asked for.
        errors = [e for e in (self.b_error, self.b_error_low) if e is not None]
        reused = self._ends_in_solution()
        stages, solution = tuple(row_of(row) for row in self.a[1:]), row_of(self.b)
        for name, value in (
            ("last_is_solution", reused),
            ("stage_rows", stages),
            ("solution_row", solution),
            ("sums", stages if reused else (*stages, solution)),
            ("error_rows", tuple(row_of(error) for error in errors)),
        ):
            object.__setattr__(self, name, value)

    def _ends_in_solution(self) -> bool:
        last = self.a[-1] + (0.0,)
        return self.stages > 1 and self.c[-1] == 1.0 and last == self.b

    @staticmethod
    def _row(row: Sequence[Number], index: int, name: str, stages: int) -> tuple[float, ...]:
        del stages
        values = floats(row)
        if any(values[index:]):
            raise ArgumentError(
                f"row {index} of tableau {name!r} has entries on or right of the diagonal; an "
                f"explicit method's row {index} has at most {index}"
            )
        return values[:index] + (0.0,) * (index - len(values))

    @property
    def stages(self) -> int:
        """The number of stages of a step, the slope at its end not counted."""
        return len(self.b)

    def _verify(self, error_order: int) -> None:
        for index, (row, node) in enumerate(zip(self.a, self.c, strict=True)):
            if abs(sum(row) - node) > _SLACK * (1 + sum(map(abs, row))):
                raise ArgumentError(
                    f"row {index} of tableau {self.name!r} sums to {sum(row):.12g} but its node is "
                    f"{node:.12g}; correct the row or the node"
                )
        matrix = _matrix(self.a)
        _check(self.name, "the weights", matrix, np.array(self.b), self.order)
        if self.b_error is not None:
            self._verify_error(self.b_error, error_order)
        if self.dense is not None:
            self._verify_dense(self.dense)

    def _verify_error(self, weights: tuple[float, ...], order: int) -> None:
        extended, b = self.with_end()
        if len(weights) not in (self.stages, self.stages + 1):
            raise ArgumentError(
                f"tableau {self.name!r} has {len(weights)} error weights; give {self.stages}, or "
                "one more for the slope at the end of the step"
            )
        error = np.zeros(len(b))
        error[: len(weights)] = weights
        if abs(error.sum()) > _SLACK * (1 + np.abs(error).sum()):
            raise ArgumentError(
                f"the error weights of tableau {self.name!r} sum to {error.sum():.12g}; they are "
                "the difference of two sets of weights and sum to 0"
            )
        _check(self.name, "the embedded weights", extended, b - error, order)

    def _verify_dense(self, dense: Dense) -> None:
        matrix = _matrix((*self.with_end_rows(), *dense.a))
        if len(dense.coefficients) != len(matrix):
            raise ArgumentError(
                f"the continuous output of {self.name!r} has weights for {len(dense.coefficients)} "
                f"stages; the table has {len(matrix)}"
            )
        for theta in (0.25, 0.5, 0.75, 1.0):
            weights = np.array(dense.weights(theta))
            what = f"the continuous output at theta = {theta}"
            order = self.order if theta == 1.0 else dense.order
            _check(self.name, what, matrix, weights, order, theta)

    def with_end_rows(self) -> tuple[tuple[float, ...], ...]:
        """Return the rows with one for the slope at the end, unless the last stage is that."""
        return self.a if self.last_is_solution else (*self.a, self.b)

    def with_end(self) -> tuple[Vector, Vector]:
        """Return the matrix of `with_end_rows` and the weights that go with it."""
        matrix = _matrix(self.with_end_rows())
        b = np.zeros(len(matrix))
        b[: self.stages] = self.b
        return matrix, b


def row_of(weights: Sequence[float]) -> Row:
    """Return weights as pairs of index and value, zeros left out."""
    return tuple((index, weight) for index, weight in enumerate(weights) if weight != 0.0)


def floats(values: Sequence[Number]) -> tuple[float, ...]:
    """Return numbers as floats."""
    return tuple(float(value) for value in values)


def _matrix(rows: Sequence[Sequence[float]]) -> Vector:
    matrix = np.zeros((len(rows), len(rows)))
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = row
    return matrix


def _check(name: str, what: str, matrix: Vector, b: Vector, order: int, theta: float = 1.0) -> None:
    phi = Weights(matrix)
    for size in range(1, order + 1):
        for tree in trees(size):
            terms = b * phi(tree)
            wanted = theta ** vertices(tree) / density(tree)
            if abs(terms.sum() - wanted) > _SLACK * (1 + np.abs(terms).sum()):
                raise ArgumentError(
                    f"{what} of tableau {name!r} miss an order condition of order {size}: "
                    f"{terms.sum():.12g} where {wanted:.12g} is due; the declared order is {order}"
                )
