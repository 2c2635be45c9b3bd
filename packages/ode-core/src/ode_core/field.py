"""The only wrapper of the user's f, between it and everything else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ode_core.draws import Draws
from ode_core.errors import ArgumentError
from ode_core.layout import Layout

_WROTE_STATE = "f wrote into the state that it was given; let it return a new tensor"
_WROTE_SLOPE = "f wrote into a tensor that it had returned before; let it return a new tensor"


class Field:
    """The only wrapper of the user's f: counts, gives it time and structure, checks its answer."""

    def __init__(
        self,
        f: Callable[..., Any],
        layout: Layout,
        y0: Tensor,
        dtypes: tuple[torch.dtype, torch.dtype],
        args: tuple[Any, ...] = (),
    ) -> None:
        self.f = f
        self.args = args
        self.layout = layout
        self.calls = 0
        self._time_dtype, self._dtype = dtypes
        self._device = y0.device
        # A 16-bit state travels in 32 bits: steps would otherwise be lost in its rounding.
        self._packed = y0.dtype
        # f gets the very tensor that the solver has, once it was seen not to draw.
        self._as_it_is = layout.spec is None and self._packed == self._dtype
        self._direct = False
        self._draws: Draws | None = Draws(y0.device)
        self._last: Tensor | None = None
        self._last_version = 0

    def __call__(
        self, t: float | Tensor, y: Tensor, mode: AbstractContextManager[Any] | None = None
    ) -> Tensor:
        """Return dy/dt at a time (host float, 0-d or `[B]`) and a packed state, like the state.

        f alone is called within `mode`, not the work around it.
        """
        self.calls += 1
        # Inference tensors keep no version; nothing can be checked there.
        version = None if y.is_inference() else y._version
        if self._direct and mode is None:
            if type(t) is float:
                time = torch.scalar_tensor(t, dtype=self._time_dtype, device=self._device)
            else:
                time = self.time(t)
            out: Tensor = self.f(time, y, *self.args)
            if type(out) is not Tensor or out.dtype != self._dtype or out.shape != y.shape:
                out = self._checked(out, y)
        else:
            out = self.plain(t, y, mode)
        if version is not None and y._version != version:
            raise ArgumentError(_WROTE_STATE)
        last = self._last
        if last is not None and last._version != self._last_version:
            raise ArgumentError(_WROTE_SLOPE)
        if out.is_inference():
            self._last = None
        else:
            self._last, self._last_version = out, out._version
        return out

    @property
    def direct(self) -> bool:
        """Whether `f(time, state, *args)` is all there is to a call, `time` as `time` gives it.

        A kernel may then make calls itself, with `settled` before them, `admitted` for what is not
        just like the state, and `note` after them.
        """
        return self._direct

    @property
    def time_dtype(self) -> torch.dtype:
        """The dtype in which f gets the time."""
        return self._time_dtype

    def settled(self) -> None:
        """Raise ArgumentError if f wrote into what it had returned last."""
        last = self._last
        if last is not None and last._version != self._last_version:
            raise ArgumentError(_WROTE_SLOPE)

    def admitted(self, out: Any, y: Tensor, *, wrote: str = "") -> Tensor:
        """Return what f gave at `y` as a slope; ArgumentError if it cannot be one.

        `wrote` says what f was seen to write into: the "state", or a "slope" before.
        """
        if wrote:
            raise ArgumentError(_WROTE_STATE if wrote == "state" else _WROTE_SLOPE)
        return self._checked(out, y)

    def note(self, calls: int, last: Tensor | None) -> None:
        """Count calls that were made by someone else, and keep the last slope in view."""
        self.calls += calls
        self._last = None if last is None or last.is_inference() else last
        if self._last is not None:
            self._last_version = self._last._version

    def plain(
        self, t: float | Tensor, y: Tensor, mode: AbstractContextManager[Any] | None = None
    ) -> Tensor:
        """Return what `__call__` does, uncounted and without the checks on writing."""
        state = self.layout.unpack(self.seen(y))
        with mode or nullcontext():
            out = self._evaluated(self.time(t), state)
        return self._checked(out, y)

    def _checked(self, out: Any, y: Tensor) -> Tensor:
        """Return what f gave as a packed slope of the state's shape and dtype."""
        slope = self.layout.pack(out, "what f returns")
        if slope.shape != y.shape:
            raise ArgumentError(
                f"f returns as many rows as it was given, {len(y)}; got {len(slope)}"
            )
        if slope.dtype != self._dtype:
            slope = self._cast(slope)
        return slope if self._packed == self._dtype else slope.to(self._packed)

    def _evaluated(self, time: Tensor, state: Any) -> Any:
        if self._draws is None:
            return self.f(time, state, *self.args)
        out = self._draws(self.f, time, state, *self.args)
        if self._draws.random is False:
            self._draws, self._direct = None, self._as_it_is
        return out

    def time(self, t: float | Tensor) -> Tensor:
        """Return a time as f gets it: in its dtype, on the state's device."""
        if isinstance(t, Tensor):
            ready = t.dtype == self._time_dtype and t.device == self._device
            return t if ready else t.to(self._device, self._time_dtype)
        return torch.scalar_tensor(t, dtype=self._time_dtype, device=self._device)

    def seen(self, y: Tensor) -> Tensor:
        """Return a packed state in the dtype in which f gets it."""
        return y if self._packed == self._dtype else y.to(self._dtype)

    @property
    def draws(self) -> bool:
        """Whether f is known to draw random numbers, which are then the same in every call."""
        return self._draws is not None

    def forget(self) -> None:
        """Let go of the last slope, so that a kept field does not keep a graph."""
        self._last = None

    def _cast(self, out: Tensor) -> Tensor:
        both_float = out.is_floating_point() and self._dtype.is_floating_point
        if both_float and torch.is_autocast_enabled(self._device.type):
            return out.to(self._dtype)
        raise ArgumentError(
            f"f returns the dtype of the state, {self._dtype}; got {out.dtype} "
            "(outside of autocast nothing is cast)"
        )
