"""The stages of a step in one call of C, which calls f: what Python does between them is saved."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ode_core.field import Field
from ode_solvers.kernels.build import library

MOST = 32
_MOST_ARGS = 16
_WROTE = ("", "state", "slope")
_WIDE = {torch.float32: 0, torch.float64: 1}


class Program(ctypes.Structure):
    """The sums of a step as C reads them: those before each stage, and how many f is called at."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("evaluated", ctypes.c_int64),
        ("rows", ctypes.c_void_p * MOST),
    )

    @classmethod
    def of(cls, rows: Sequence[ctypes.Structure], evaluated: int) -> Program:
        """Return the program of rows, which it keeps, as C reads those."""
        made = cls(len(rows), evaluated, tuple(ctypes.addressof(row) for row in rows))
        made.kept = rows
        return made


class Room(Protocol):
    """What C fills: see `Slopes`."""

    pointers: Any
    sizes: tuple[Any, ...]
    adder: int

    def admit(self, k: Tensor) -> int:
        """Return where a slope lies, or a copy of it in the state's strides."""


class _Calls(NamedTuple):
    """How C calls f: with times as they are, or with `views` of memory at `clock` to write them in.

    `wide` says that those are float64; `mend` takes what is not just like the state.
    """

    f: Callable[..., Any]
    args: tuple[Any, ...]
    times: list[Any]
    mend: Callable[[Any, int], tuple[Tensor, int]]
    views: tuple[Tensor, ...] | None = None
    clock: int = 0
    wide: int = 0


def run(
    program: int,
    room: Room,
    field: Callable[..., Any],
    y: Tensor,
    ks: list[Tensor],
    times: list[Any],
) -> Tensor | None:
    """Append the slopes of a step to `ks`, and return the state of the last sum.

    `program` is the address of a Program. What is missing at the end, and the state if it is None,
    has a gradient: that is for torch.
    """
    call = _function()
    assert call is not None  # `available` was asked
    watched = not (torch.is_inference_mode_enabled() or y.is_inference())
    direct = field if type(field) is Field and field.direct else None
    if direct is None or len(direct.args) > _MOST_ARGS:
        direct, calls = None, _Calls(field, (), times, lambda k, _: (k, room.admit(k)))
    else:
        direct.settled()
        calls = _direct(direct, y, times, room)
    before, recording = len(ks), torch.is_grad_enabled()
    try:
        last: Tensor | None = call(
            program, room.adder, room.pointers, *room.sizes, torch.empty_like, y, ks, calls.times,
            calls.views, calls.clock, calls.wide, calls.f, calls.args, calls.mend, watched,
            recording, None,
        )  # fmt: skip
    finally:
        if direct is not None:
            direct.note(len(ks) - before, ks[-1] if ks else None)
    return last


def _direct(field: Field, y: Tensor, times: list[Any], room: Room) -> _Calls:
    def mend(k: Any, code: int) -> tuple[Tensor, int]:
        slope = field.admitted(k, y, wrote=_WROTE[code])
        return slope, room.admit(slope)

    wide = _WIDE.get(field.time_dtype)
    if wide is None or type(times[0]) is not float:
        return _Calls(field.f, field.args, [field.time(t) for t in times], mend)
    # One piece of memory for all; whatever the default device is, C writes here.
    block = torch.empty(len(times), dtype=field.time_dtype, device=y.device)
    return _Calls(field.f, field.args, times, mend, block.unbind(), block.data_ptr(), wide)


def available() -> bool:
    """Return whether C can call Python here."""
    return _function() is not None


@cache
def _function() -> Callable[..., Any] | None:
    made = library("stages.c", ctypes.PyDLL)
    if made is None:
        return None
    call = made.stages
    pointer, whole, thing = ctypes.c_void_p, ctypes.c_int64, ctypes.py_object
    call.argtypes = (
        pointer, pointer, pointer, ctypes.c_double, pointer, whole, whole, *(thing,) * 5, pointer,
        whole, *(thing,) * 3, whole, whole, thing,
    )  # fmt: skip
    call.restype = thing
    return call
