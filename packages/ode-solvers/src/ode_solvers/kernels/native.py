"""One pass over memory for every sum and norm, in C: on the CPU, where one thread does the work."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core import ArgumentError, Tolerance
from ode_core.tolerance import finite
from ode_core.transforms import transformed
from ode_solvers.kernels import native_stages
from ode_solvers.kernels.build import library
from ode_solvers.kernels.cpu import Chain
from ode_solvers.kernels.sweep import Sweep, joined
from ode_solvers.tableau import Row

# Slopes of a step; dopri8 has seventeen with those of its continuous output.
MOST = 32
_ROWS_KEPT = 1024
# From this size on torch shares an operation among its threads, and C does not.
_SHARED = 32768
# From this size on what a node of its own saves in memory passes is more than what it costs.
_SWEPT = 1024
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_CHAIN = Chain()


class _Row(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("index", ctypes.c_int64 * MOST),
        ("weight", ctypes.c_double * MOST),
    )

    @classmethod
    def of(cls, row: Row) -> _Row:
        """Return a row as C reads it."""
        indices, weights = zip(*row, strict=True)
        return cls(len(row), indices, weights)


class Slopes:
    """The step size, and the slopes of one step as C finds them: pointers, one more a stage."""

    __slots__ = (
        "_alike", "_dtype", "_first", "_noted", "_strides", "_y", "adder", "combine", "finish", "h",
        "pointers", "size", "sizes", "sweep", "token",
    )  # fmt: skip

    def __init__(self, h: Any, y: Tensor, functions: tuple[Any, Any, int]) -> None:
        self.h, self.size = h, y.numel()
        self.combine, self.finish, self.adder = functions
        self.pointers = (ctypes.c_void_p * MOST)()
        # As the sums of the stages take the step size: itself or one a row, rows, and their width.
        self.sizes: tuple[Any, ...] = (h, None, 1, self.size)
        self._first: Tensor | None = None
        self._noted = 0
        self._y, self._dtype, self._strides = y, y.dtype, y.stride()
        self.sweep: Sweep | None = None
        self.token = y
        # Copies in the state's strides live as long as their pointers.
        self._alike: list[Tensor] = []

    def take(self, ks: Sequence[Tensor]) -> None:
        """Note the slopes that have come since the last call.

        C reads as many numbers as the state has: whatever lies otherwise is copied, or refused.
        """
        if self._first is not ks[0]:
            self._first, self._noted = ks[0], 0
        for index in range(self._noted, len(ks)):
            self.pointers[index] = self.admit(ks[index])
        self._noted = len(ks)

    def taken(self, ks: Sequence[Tensor]) -> None:
        """Note that the slopes' pointers are there already."""
        self._first, self._noted = ks[0], len(ks)

    def admit(self, k: Tensor) -> int:
        """Return where a slope lies, or a copy of it in the state's strides."""
        like = k.is_cpu and k.dtype == self._dtype and k.numel() == self.size
        if not (like and k.stride() == self._strides):
            k = self._copy(k)
        return k.data_ptr()

    def _copy(self, k: Tensor) -> Tensor:
        if not k.is_cpu:
            raise ArgumentError(
                f"f returns its slopes on the state's device, cpu; got one on {k.device}"
            )
        copy = torch.empty_like(self._y).copy_(k)
        self._alike.append(copy)
        return copy


@dataclass(frozen=True)
class Native:
    """The sums in C under `torch.no_grad()`, for float32 and float64 states that lie densely.

    Everything else, and states so large that torch's threads are quicker, goes through `Chain`.
    """

    name: str = "native"

    def prepare(self, dt: float | Tensor, y: Tensor) -> Any:
        """Return the step size with room for the slopes, or as `Chain` takes it."""
        functions = _functions(y.dtype) if type(y) is Tensor and y.is_cpu else None
        if functions is None or isinstance(dt, Tensor) or not plain(y):
            return _CHAIN.prepare(dt, y)
        return Slopes(dt, y, functions)

    def combine(self, y: Tensor, h: Any, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k."""
        if type(h) is not Slopes:
            return _CHAIN.combine(y, h, row, ks)
        if len(row) == 1 and not torch.is_grad_enabled():
            # Torch needs but one pass for this, too, and has the shorter way.
            ((index, weight),) = row
            return torch.add(y, ks[index], alpha=h.h * weight)
        if len(ks) > MOST:
            return _CHAIN.combine(y, h.h, row, ks)
        if torch.is_grad_enabled() and recorded(y, ks):
            return _recorded_sum(y, h, row, ks)
        return _sum(y, h, row, ks)

    def stages(
        self,
        field: Callable[..., Any],
        h: Any,
        y: Tensor,
        rows: tuple[Row, ...],
        evaluated: int,
        ks: list[Tensor],
        times: list[Any],
    ) -> Tensor | None:
        """Append slopes to `ks` and return the state of the last row, as far as C can.

        f is called at the start unless its slope is there, and at the states of the first
        `evaluated` rows. Without a state the rest is the caller's.
        """
        if not isinstance(h, Slopes) or len(rows) >= MOST or not native_stages.available():
            return None
        if ks:
            if torch.is_grad_enabled() and recorded(y, ks):
                return None
            h.take(ks)
        elif torch.is_grad_enabled() and y.requires_grad:
            return None
        state = native_stages.run(_program(rows, evaluated), h, field, y, ks, times)
        h.taken(ks)
        return state

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
        """Return the new state and the norm of each error estimate."""
        if type(h) is not Slopes:
            return _CHAIN.finish(y0, y1, h, solution, errors, ks, tolerance)
        y = self.combine(y0, h, solution, ks) if y1 is None else y1
        rtol, atol = tolerance.rtol, tolerance.atol
        simple = type(tolerance) is Tolerance and type(rtol) is type(atol) is float
        if not simple or tolerance.segments or len(ks) > MOST:
            return _CHAIN.finish(y0, y, h.h, solution, errors, ks, tolerance)
        h.take(ks)
        start, end, norms = y0.data_ptr(), y.data_ptr(), []
        for row in errors:
            packed = _ROWS.get(id(row)) or _packed(row)
            total = h.finish(h.pointers, packed[0], start, end, h.h, rtol, atol, h.size)
            norms.append(finite(total / h.size))
        return y, tuple(norms)


def _sum(y: Tensor, h: Slopes, row: Row, ks: Sequence[Tensor]) -> Tensor:
    h.take(ks)
    out = torch.empty_like(y)
    packed = _ROWS.get(id(row)) or _packed(row)
    h.combine(h.pointers, packed[0], y.data_ptr(), out.data_ptr(), h.h, h.size)
    return out


def _recorded_sum(y: Tensor, h: Slopes, row: Row, ks: Sequence[Tensor]) -> Tensor:
    if h.sweep is None and len(ks) == 1 and h.size >= _SWEPT:
        h.sweep = Sweep(h.h, partial(_weigh, h.combine))
    if h.sweep is None or len(ks) != len(h.sweep.rows) + 1:
        return _CHAIN.combine(y, h.h, row, ks)
    out, h.token = joined(h.sweep, h.token, ks[-1], row, lambda: _sum(y, h, row, ks))
    return out


def _weigh(combine: Callable[..., Any], h: float, row: Row, xs: Mapping[int, Tensor]) -> Tensor:
    out = torch.empty_like(xs[row[0][0]])
    strides, kept = out.stride(), []
    pointers = (ctypes.c_void_p * MOST)()
    for index, _ in row:
        x = xs[index]
        if x.stride() != strides:
            # Such as an expanded one, which lies nowhere as a whole.
            kept.append(x := torch.empty_like(out).copy_(x))
        pointers[index] = x.data_ptr()
    packed = _ROWS.get(id(row)) or _packed(row)
    combine(pointers, packed[0], None, out.data_ptr(), h, out.numel())
    return out


def recorded(y: Tensor, ks: Sequence[Tensor]) -> bool:
    """Return whether a sum of these has a gradient."""
    return y.requires_grad or any(k.requires_grad for k in ks)


def address(function: Any) -> int:
    """Return where a function of C's lies, for C to call it."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def available() -> bool:
    """Return whether the C kernel could be built here."""
    return library() is not None


def plain(y: Tensor) -> bool:
    """Return whether C sees what torch would see, and is not slower than torch's threads."""
    size = y.numel()
    if not 0 < size <= _SHARED and (size == 0 or torch.get_num_threads() > 1):
        return False
    # Within these, an operation is more than its values.
    inside = (
        torch._C._len_torch_dispatch_stack()
        or transformed()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )
    return not inside and (y.is_contiguous() or torch.empty_like(y).stride() == y.stride())


@cache
def _functions(dtype: torch.dtype) -> tuple[Any, Any, int] | None:
    made = library()
    if made is None or dtype not in SUFFIX:
        return None
    combine = getattr(made, f"combine_{SUFFIX[dtype]}")
    finish = getattr(made, f"finish_{SUFFIX[dtype]}")
    pointer, number = ctypes.c_void_p, ctypes.c_double
    combine.argtypes = (pointer, pointer, pointer, pointer, number, ctypes.c_int64)
    combine.restype = None
    finish.argtypes = (pointer, pointer, pointer, pointer, *(number,) * 3, ctypes.c_int64)
    finish.restype = number
    return combine, finish, address(combine)


# Where each row lies in memory as C reads it. By identity: to hash a row takes longer than to add
# it up. A row that is kept keeps its id.
_ROWS: dict[int, tuple[int, Row, _Row]] = {}


def packed(row: Row) -> int:
    """Return where a row lies in memory as C reads it."""
    return (_ROWS.get(id(row)) or _packed(row))[0]


# What a table's sums are to C; by identity, too.
_PROGRAMS: dict[tuple[int, int], tuple[int, native_stages.Program, tuple[Row, ...]]] = {}


def _program(rows: tuple[Row, ...], evaluated: int) -> int:
    known = _PROGRAMS.get((id(rows), evaluated))
    if known is None:
        # The rows lie here for as long as the program does.
        made = native_stages.Program.of([_Row.of(row) for row in rows], evaluated)
        known = _PROGRAMS[id(rows), evaluated] = (ctypes.addressof(made), made, rows)
    return known[0]


def _packed(row: Row) -> tuple[int, Row, _Row]:
    if len(_ROWS) >= _ROWS_KEPT:
        # Rows of continuous outputs are new each time.
        _ROWS.clear()
    packed = _Row.of(row)
    made = _ROWS[id(row)] = (ctypes.addressof(packed), row, packed)
    return made
