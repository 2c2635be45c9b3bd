"""What must be the same afterwards: an object's attributes, and the process's global settings."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

_DEPTH = 8


def attributes(value: Any, depth: int = 0) -> Any:
    """Return an object as nested plain data that can be compared: tensors by value."""
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), tuple(value.shape), value.detach().cpu().tolist())
    if isinstance(value, str | bytes | int | float | complex | bool | type(None)):
        return value if value == value else "nan"
    if depth > _DEPTH:
        return type(value).__name__
    if isinstance(value, dict):
        return {str(key): attributes(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [attributes(item, depth + 1) for item in value]
    members = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                members[name] = getattr(value, name)
    if callable(value) and not members:
        return id(value)
    return {name: attributes(item, depth + 1) for name, item in members.items()}


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return (kind, tuple(np.asarray(keys).tolist()), *rest)


def _set_filters(state: list[Any]) -> None:
    cast("list[Any]", warnings.filters)[:] = state


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "matmul precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch's random state": (
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
    ),
    "Python's random state": (random.getstate, random.setstate),
    "NumPy's random state": (_numpy_state, np.random.set_state),
    "NumPy's error handling": (np.geterr, lambda state: np.seterr(**state)),
    "the warnings filters": (lambda: list(warnings.filters), _set_filters),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
}


def settings() -> dict[str, Any]:
    """Return the process's global settings by the words a reader knows them by."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def restore(before: dict[str, Any]) -> None:
    """Put back what differs from earlier `settings`."""
    for name, (read, write) in _SETTINGS.items():
        if read() != before[name]:
            write(before[name])


@contextmanager
def guarded() -> Iterator[None]:
    """Put global settings back as they were, with a fixed seed within."""
    before = settings()
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        restore(before)
