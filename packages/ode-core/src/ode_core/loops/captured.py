"""Chunks that are recorded once, for a solve and for those to come that rely on the same things."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ode_core.errors import GraphWarning
from ode_core.loops.chunk import Buffers, Chunk, Contents
from ode_core.loops.graphs import settings

if TYPE_CHECKING:
    from ode_core.field import Field

_KEPT = 8


class Kept:
    """The most recently used of what is kept, by key."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._items: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is kept under the key, made now if it is not."""
        if key not in self._items:
            self._items[key] = make()
            if len(self._items) > self._most:
                self._items.popitem(last=False)
        self._items.move_to_end(key)
        return self._items[key]

    def clear(self) -> None:
        """Let go of everything, and of the memory of its graphs."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)


PROGRAMS = Kept()
"""Recorded loops, for solves to come."""


def captured(
    chunks: list[Chunk], field: Field, contents: tuple[Contents, Contents], about: tuple[Any, ...]
) -> list[Chunk]:
    """Return such chunks as graphs, kept ones where there are, or these with a warning.

    `contents` are those of buffers when nothing is to be done, and at the start of a solve, `about`
    what the graphs rely on beside the chunks and f themselves.
    """
    first, (still, live) = chunks[0], contents

    def recorded() -> tuple[list[Chunk], str, Any]:
        # f is held, too: another one in its place in memory would have its key.
        if field.draws:
            return [], "it draws random numbers", field.f
        try:
            for chunk in chunks:
                chunk.capture(field, still, live)
        except RuntimeError as error:
            return [], str(error).splitlines()[0], field.f
        return chunks, "", field.f

    y, tolerance = first.buffers.y, first.tolerance
    allowed = tolerance and (of(tolerance.rtol), of(tolerance.atol), tolerance.segments)
    key = (
        _function(field.f), y.shape, y.stride(), y.dtype, y.device, of(first.solver), allowed,
        len(chunks), first.steps, first.keep, first.whole, settings(y.device), about,
    )  # fmt: skip
    kept, why, _ = PROGRAMS.get(key, recorded)
    if why:
        _warn(why)
        buffers = Buffers.like(*still)
        return [replace(chunk, buffers=buffers) for chunk in chunks]
    made: list[Chunk] = kept
    return made


def of(x: Any) -> Any:
    """Return what tells an object from others while it is held: itself where it compares."""
    if isinstance(x, Tensor):
        return x.data_ptr(), x._version, x.shape
    try:
        hash(x)
    except TypeError:
        return id(x)
    return x


def _function(f: Any) -> Any:
    # A bound method is a new object every time that it is looked up.
    bound = getattr(f, "__self__", None)
    return id(f) if bound is None else (id(bound), id(getattr(f, "__func__", f)))


def _warn(why: str) -> None:
    """Say that a solve runs without a graph, and what would help."""
    warnings.warn(
        f"f cannot be captured in a CUDA graph ({why}); the solve runs uncaptured, with the same "
        "result: keep .item(), prints, host data and random numbers out of f, or drop graph=True",
        GraphWarning,
        stacklevel=2,
    )
