"""Random numbers that f draws, the same at every evaluation of one solve: f is one ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Draws:
    """Calls f so that each evaluation starts from the random state of the first.

    The first evaluation tells whether f draws at all; if it does not, `random` is False and nothing
    needs to be done. Otherwise the generators are left, after every later evaluation, as they were
    before it: a solve moves them on once, and a replay not at all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start: tuple[Tensor, ...] | None = None
        self.random: bool | None = None

    def __call__(self, f: Callable[..., Any], *args: Any) -> Any:
        """Return f(*args)."""
        if torch.compiler.is_compiling():
            # A compiled program has random numbers of its own.
            return f(*args)
        before = states(self._device)
        if self._start is None:
            out = f(*args)
            self.random = differ(before, states(self._device))
            self._start = before if self.random else None
            return out
        _set(self._device, self._start)
        try:
            return f(*args)
        finally:
            _set(self._device, before)


def states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the states of the CPU's generator and of the device's."""
    host = torch.get_rng_state()
    if device.type == "cpu" or not hasattr(own := torch.get_device_module(device), "get_rng_state"):
        return (host,)
    return host, own.get_rng_state(device)


def differ(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> bool:
    """Return whether something was drawn in between."""
    return not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _set(device: torch.device, found: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(found[0])
    if len(found) > 1:
        torch.get_device_module(device).set_rng_state(found[1], device)
