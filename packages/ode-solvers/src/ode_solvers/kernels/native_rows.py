"""The C kernel for per-sample steps: a step size, a norm and outputs of its own for each row."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ode_core import Tolerance
from ode_core.tolerance import SampleTolerance
from ode_solvers.kernels.build import library
from ode_solvers.kernels.cpu import Chain
from ode_solvers.kernels.native import (
    MOST,
    SUFFIX,
    Native,
    Slopes,
    address,
    packed,
    plain,
    recorded,
)
from ode_solvers.tableau import Dense, Row

_CHAIN = Chain()


class Functions(NamedTuple):
    """What C does of the rows of one dtype."""

    combine: Callable[..., None]
    finish: Callable[..., None]
    output: Callable[..., None]
    adder: int


class RowSlopes(Slopes):
    """Step sizes `[B]` and slopes as C finds them: so many rows, of so many entries."""

    __slots__ = ("rows", "steps", "width")

    def __init__(self, h: Tensor, y: Tensor, functions: Functions) -> None:
        super().__init__(h, y, (functions.combine, functions.finish, functions.adder))
        self.rows, self.width = len(y), self.size // len(y)
        self.steps = h.data_ptr()
        self.sizes = (0.0, self.steps, self.rows, self.width)


@dataclass(frozen=True)
class NativeRows(Native):
    """The C kernel that takes a step size for each row, too."""

    def prepare(self, dt: float | Tensor, y: Tensor) -> Any:
        """Return the step sizes with room for the slopes, or as `Chain` takes them."""
        if not isinstance(dt, Tensor) or dt.dim() == 0:
            return super().prepare(dt, y)
        functions = _functions(y.dtype) if type(y) is Tensor and y.is_cpu else None
        dense = functions is not None and plain(y) and y.stride(0) * len(y) == y.numel()
        if functions is None or not dense or dt.requires_grad or not dt.is_contiguous():
            return _CHAIN.prepare(dt, y)
        return RowSlopes(dt, y, functions)

    def combine(self, y: Tensor, h: Any, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k."""
        if type(h) is not RowSlopes:
            return super().combine(y, h, row, ks)
        if len(ks) > MOST or (torch.is_grad_enabled() and recorded(y, ks)):
            return _CHAIN.combine(y, _CHAIN.prepare(h.h, y), row, ks)
        h.take(ks)
        out = torch.empty_like(y)
        ends = (y.data_ptr(), out.data_ptr())
        h.combine(h.pointers, packed(row), *ends, h.steps, h.rows, h.width)
        return out

    def finish(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Any,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the new state and the norms, `[B]`, of each error estimate."""
        if type(h) is not RowSlopes:
            return super().finish(y0, y1, h, solution, errors, ks, tolerance)
        y = self.combine(y0, h, solution, ks) if y1 is None else y1
        rtol, atol = tolerance.rtol, tolerance.atol
        simple = type(tolerance) is SampleTolerance and type(rtol) is type(atol) is float
        if not simple or len(ks) > MOST:
            return _CHAIN.finish(y0, y, _CHAIN.prepare(h.h, y0), solution, errors, ks, tolerance)
        h.take(ks)
        ends, norms = (y0.data_ptr(), y.data_ptr()), []
        for row in errors:
            norm = torch.empty(h.rows, dtype=torch.float64)
            given = (h.steps, rtol, atol, h.rows, h.width, norm.data_ptr())
            h.finish(h.pointers, packed(row), *ends, *given)
            norms.append(norm)
        return y, tuple(norms)

    def outputs(
        self,
        y: Tensor,
        dt: Tensor,
        dense: Dense,
        ks: Sequence[Tensor],
        rows: Tensor,
        theta: Tensor,
    ) -> Tensor:
        """Return the continuous output of rows, at their thetas."""
        h, functions = self.prepare(dt, y), _functions(y.dtype)
        watched = torch.is_grad_enabled() and (theta.requires_grad or recorded(y, ks))
        flat = theta.dtype == torch.float64 and all(x.is_contiguous() for x in (y, theta, rows))
        if functions is None or type(h) is not RowSlopes or watched or not flat or len(ks) > MOST:
            return _CHAIN.outputs(y, dt, dense, ks, rows, theta)
        h.take(ks)
        out = y.new_empty((len(rows), *y.shape[1:]))
        places = (y.data_ptr(), out.data_ptr(), h.steps, rows.data_ptr(), theta.data_ptr())
        shape = (dense.degree, len(rows), h.width)
        functions.output(h.pointers, packed(dense.used), *places, _pointer(dense), *shape)
        return out


@cache
def _functions(dtype: torch.dtype) -> Functions | None:
    made = library()
    if made is None or dtype not in SUFFIX:
        return None
    names = ("combine_rows", "finish_rows", "output_rows")
    combine, finish, output = (getattr(made, f"{name}_{SUFFIX[dtype]}") for name in names)
    functions = Functions(combine, finish, output, address(combine))
    pointer, number, whole = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64
    sums, batch = (pointer,) * 5, (whole, whole)
    for foreign, arguments in (
        (functions.combine, (*sums, *batch)),
        (functions.finish, (*sums, number, number, *batch, pointer)),
        (functions.output, (*sums, pointer, pointer, pointer, whole, *batch)),
    ):
        function: Any = foreign
        function.argtypes, function.restype = arguments, None
    return functions


# By identity, as rows are: to hash a table takes longer than to use it. What is kept keeps its id.
_DENSE: dict[int, tuple[int, Dense]] = {}


def _pointer(dense: Dense) -> int:
    # NumPy takes its time to tell where an array lies.
    known = _DENSE.get(id(dense))
    if known is None:
        known = _DENSE[id(dense)] = (dense.polynomials.ctypes.data, dense)
    return known[0]
