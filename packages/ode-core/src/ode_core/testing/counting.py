"""What a stretch of torch code does: operations, bytes, allocations and waits for the device."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# What only reserves memory, and what reads a value or a shape from the device on every backend.
_EMPTY = ("empty", "new_empty", "resize")
_READS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2")
_BY_MASK = ("index", "index_put", "index_put_", "_index_put_impl_")
_FILLS = ("copy_", "fill_", "zero_")
# These read without a dispatch that a mode would see on the CPU.
_UNSEEN = (Tensor.tolist, Tensor.numpy, Tensor.__array__)


@dataclass
class Counts:
    """How much was done: calls of operations other than views, what they read and wrote in bytes
    (each tensor of a call once), fresh tensors and their bytes, and reads by the host, for which it
    has to wait for a GPU."""

    operations: float = 0
    read: float = 0
    written: float = 0
    allocations: float = 0
    allocated: float = 0
    synchronisations: float = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(self.values(), other.values(), strict=True)))

    def __truediv__(self, number: float) -> Counts:
        return Counts(*(value / number for value in self.values()))

    def values(self) -> list[float]:
        """Return the counts in their order."""
        return [getattr(self, one.name) for one in fields(self)]


class Counter:
    """Counts what torch does while it is `running`, but for what is done `outside`.

    Code that asks whether a dispatch mode is active sees one; what runs in native kernels of its
    own is not seen.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.paused = False

    @contextmanager
    def running(self) -> Iterator[Counts]:
        """Count in the body, and give what has been counted so far, which goes on growing."""
        with _Operations(self), _Reads(self):
            yield self.counts

    def outside(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Return f, whose own operations are not counted."""

        def uncounted(*args: Any) -> Any:
            before, self.paused = self.paused, True
            try:
                return f(*args)
            finally:
                self.paused = before

        return uncounted

    def note(self, name: str, written: list[Tensor], before: list[Tensor], out: Any) -> None:
        """Count one call: its name, what it writes into, the tensors it was given, its result."""
        counts = self.counts
        storages = {_storage(x) for x in before}
        made = list(_tensors((out,)))
        fresh = list({_storage(x): x for x in made if _storage(x) not in storages}.values())
        counts.synchronisations += name in _READS
        if name in _BY_MASK:
            counts.synchronisations += any(x.dtype in (torch.bool, torch.uint8) for x in before[1:])
        if made and not fresh and not written:
            return  # a view
        counts.allocations += len(fresh)
        counts.allocated += sum(map(_bytes, fresh))
        if name.startswith(_EMPTY):
            return
        counts.operations += 1
        overwritten = {id(x) for x in written} if name in _FILLS else set()
        unique = {
            (x.data_ptr(), x.shape, x.stride()): x for x in before if id(x) not in overwritten
        }
        counts.read += sum(map(_bytes, unique.values()))
        counts.written += sum(map(_bytes, [*fresh, *written]))


class _Operations(TorchDispatchMode):
    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._counter.paused:
            return out
        before = [*_tensors(args), *_tensors(kwargs.values())]
        written = list(_tensors(_written(func, args, kwargs)))
        self._counter.note(func.overloadpacket.__name__, written, before, out)
        return out


class _Reads(TorchFunctionMode):
    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _UNSEEN and not self._counter.paused:
            self._counter.counts.synchronisations += 1
        return func(*args, **(kwargs or {}))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments or results of an operation, which may be in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    return [
        args[place] if place < len(args) else kwargs.get(name)
        for place, name in _written_places(func)
    ]


@cache
def _written_places(func: Any) -> list[tuple[int, str]]:
    return [
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _storage(x: Tensor) -> int:
    key: int = x.untyped_storage()._cdata
    return key


def _bytes(x: Tensor) -> int:
    """Return the bytes of the distinct entries: an expanded dimension holds one."""
    sizes = zip(x.shape, x.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride) * x.element_size() * bool(x.numel())
