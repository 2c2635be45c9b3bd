"""Finding the inputs that an f uses, so that their knots need not be listed as jump times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ode_core.errors import ArgumentError
from ode_core.inputs import Control

Kind = TypeVar("Kind")
_PLAIN = (Tensor, str, bytes, int, float, complex, bool, type, type(None), ModuleType)


def controls_in(f: Callable[..., Any], args: tuple[Any, ...] = ()) -> list[Control]:
    """Return the inputs that `f` may use, each once, found as `found_in` does."""
    return found_in(Control, f, args)


def found_in(kind: type[Kind], f: Callable[..., Any], args: tuple[Any, ...] = ()) -> list[Kind]:
    """Return the objects of a kind that `f` may use, each once.

    Looked through are `args`, and of `f`: closure cells, defaults, globals that its code names,
    what a partial holds, a module's submodules, and attributes; likewise functions, modules and
    containers of up to 256 entries found there, and objects found there to a depth of two.
    """
    found: list[Kind] = []
    # What is being looked at is kept, so that no id is used twice.
    seen: dict[int, Any] = {}
    waiting: list[tuple[Any, int]] = [(f, 0), *((arg, 0) for arg in args)]
    while waiting:
        x, depth = waiting.pop()
        if id(x) in seen:
            continue
        seen[id(x)] = x
        if isinstance(x, kind):
            found.append(x)
        elif not isinstance(x, _PLAIN):
            waiting += _held_by(x, depth)
    return found


def _held_by(x: Any, depth: int) -> Iterator[tuple[Any, int]]:
    """Yield what an object holds, with how many objects' attributes have been gone through."""
    if isinstance(x, FunctionType):
        yield from ((value, depth) for value in _named_by(x))
    elif isinstance(x, MethodType):
        yield from ((x.__self__, depth), (x.__func__, depth))
    elif isinstance(x, partial):
        yield from ((value, depth) for value in (x.func, *x.args, *x.keywords.values()))
    elif isinstance(x, list | tuple | set | Mapping):
        if len(x) <= 256:
            yield from ((value, depth) for value in (x.values() if isinstance(x, Mapping) else x))
    elif depth < 3 and hasattr(x, "__dict__"):
        if isinstance(x, nn.Module):
            for held in (x._modules, x._parameters, x._buffers):
                yield from ((value, depth) for value in held.values())
        for name, value in vars(x).items():
            if not (isinstance(x, nn.Module) and name.startswith("_")):
                yield value, depth + 1


def _named_by(f: FunctionType) -> Iterator[Any]:
    for cell in f.__closure__ or ():
        # A cell is empty while the function that fills it has not come that far.
        with suppress(ValueError):
            yield cell.cell_contents
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    for name in _names(f.__code__):
        value = f.__globals__.get(name)
        # A library's functions are no place where a user's input hides.
        if not isinstance(value, FunctionType) or value.__globals__ is f.__globals__:
            yield value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def knots_of(f: Callable[..., Any], args: tuple[Any, ...] = ()) -> Tensor | None:
    """Return the knots of all inputs that `f` may use: `[J]`, or `[B, J]` with inputs per sample.

    In float64 on the CPU, rising; rows are padded at the end by NaN. None without any input.
    Raises ArgumentError for inputs of different batch sizes.
    """
    knots = [control.knots for control in controls_in(f, args)]
    if not knots:
        return None
    sizes = {len(times) for times in knots if times.dim() == 2}
    if len(sizes) > 1:
        raise ArgumentError(
            f"f uses controls with knots for {' and for '.join(map(str, sorted(sizes)))} samples; "
            "the controls of one solve share one batch size"
        )
    if not sizes:
        together: Tensor = torch.cat(knots).unique()
        return together
    rows = sizes.pop()
    return torch.cat([times.expand(rows, -1) for times in knots], dim=1).sort(dim=1).values
