"""What the user gave, checked once; behind this door nothing is checked again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.errors import ArgumentError
from ode_core.solution import Stats


@dataclass(frozen=True)
class Layout:
    """How a state lies in one tensor: a single tensor as it is, a pytree flat as `[N]`."""

    spec: pytree.TreeSpec | None
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, y0: Any) -> tuple[Layout, Tensor]:
        """Return the layout of a state and the state as one tensor.

        Raises ArgumentError for a state that holds no tensor, or tensors of several dtypes or
        devices.
        """
        if isinstance(y0, Tensor):
            return cls(None, (y0.shape,)), y0
        leaves, spec = pytree.tree_flatten(y0)
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            kinds = sorted({type(leaf).__name__ for leaf in leaves}) or ["nothing"]
            raise ArgumentError(
                "y0 is a tensor, or a tuple, list or dict of tensors; it holds " + ", ".join(kinds)
            )
        kinds = sorted({f"{leaf.dtype} on {leaf.device}" for leaf in leaves})
        if len(kinds) > 1:
            raise ArgumentError(
                "the tensors of y0 share one dtype and one device; they are " + ", ".join(kinds)
            )
        layout = cls(spec, tuple(leaf.shape for leaf in leaves))
        return layout, layout.flat(leaves)

    def flat(self, leaves: Sequence[Tensor]) -> Tensor:
        """Return leaves as one `[N]` tensor; a single one as a view of itself."""
        if len(leaves) == 1:
            return leaves[0].reshape(-1)
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

    def unpack(self, y: Tensor, lead: int = 0) -> Any:
        """Return the user's structure, each leaf with `lead` more dimensions in front."""
        if self.spec is None:
            return y
        parts = y.split([shape.numel() for shape in self.shapes], dim=lead)
        head = y.shape[:lead]
        leaves = [part.view(head + shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return pytree.tree_unflatten(leaves, self.spec)

    def pack(self, out: Any, what: str) -> Tensor:
        """Return the structure that f, or a tolerance, gave as one tensor; raises ArgumentError."""
        if self.spec is None:
            if not isinstance(out, Tensor):
                raise ArgumentError(f"{what} is a tensor like y0; got {type(out).__name__}")
            self._same([out], what)
            return out
        leaves, spec = pytree.tree_flatten(out)
        if spec != self.spec:
            raise ArgumentError(f"{what} has the structure of y0; got {spec} for {self.spec}")
        self._same(leaves, what)
        return self.flat(leaves)

    def _same(self, leaves: Sequence[Tensor], what: str) -> None:
        shapes = tuple(leaf.shape for leaf in leaves)
        if shapes != self.shapes:
            raise ArgumentError(
                f"{what} has the shape of y0, {_shapes(self.shapes)}; got {_shapes(shapes)}"
            )


def _shapes(shapes: Sequence[torch.Size]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)


class Field:
    """The only wrapper of the user's f: counts, gives it time and structure, checks its answer."""

    def __init__(
        self,
        f: Callable[..., Any],
        layout: Layout,
        y0: Tensor,
        time_dtype: torch.dtype,
        args: tuple[Any, ...] = (),
    ) -> None:
        self.f = f
        self.args = args
        self.layout = layout
        self.calls = 0
        self._time_dtype = time_dtype
        self._device = y0.device
        self._dtype = y0.dtype
        self._last: Tensor | None = None
        self._last_version = 0

    def __call__(self, t: float | Tensor, y: Tensor) -> Tensor:
        """Return dy/dt at a time (host float or 0-d tensor) and a packed state, like the state."""
        self.calls += 1
        version = _version(y)
        out = self.plain(t, y)
        if _version(y) != version:
            raise ArgumentError(
                "f wrote into the state that it was given; let it return a new tensor"
            )
        if self._last is not None and _version(self._last) != self._last_version:
            raise ArgumentError(
                "f wrote into a tensor that it had returned before; let it return a new tensor"
            )
        self._last, self._last_version = out, _version(out)
        return out

    def plain(self, t: float | Tensor, y: Tensor) -> Tensor:
        """Return what `__call__` does, uncounted and without the checks on writing."""
        if isinstance(t, Tensor):
            time = t.to(self._time_dtype)
        else:
            time = torch.scalar_tensor(t, dtype=self._time_dtype, device=self._device)
        layout = self.layout
        out = self.f(time, layout.unpack(y), *self.args)
        if layout.spec is not None or type(out) is not Tensor or out.shape != y.shape:
            out = layout.pack(out, "what f returns")
        if out.dtype != self._dtype:
            out = self._cast(out)
        return out

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


def _version(x: Tensor) -> int:
    # Inference tensors keep no version; nothing can be checked there.
    return 0 if x.is_inference() else x._version


@dataclass(frozen=True, eq=False)
class Problem:
    """A checked initial value problem.

    `y0` is the packed state, `ts` the `[T]` float64 times, `times` the same as host floats, `jumps`
    the times strictly inside where f is not smooth, in the direction of the solve. `stats` is what
    solving it has cost so far, backward passes included.
    """

    field: Field
    y0: Tensor
    ts: Tensor
    times: tuple[float, ...]
    jumps: tuple[float, ...]
    time_dtype: torch.dtype
    stats: Stats = dataclasses.field(default_factory=Stats)

    @property
    def layout(self) -> Layout:
        """How the user's state lies in `y0`."""
        return self.field.layout

    @property
    def direction(self) -> float:
        """1.0 forwards in time, -1.0 backwards."""
        return 1.0 if self.times[-1] >= self.times[0] else -1.0

    @classmethod
    def build(
        cls,
        f: Callable[..., Any],
        y0: Any,
        t: Any,
        *,
        args: tuple[Any, ...] = (),
        jump_times: Any = None,
        time_dtype: torch.dtype | None = None,
    ) -> Problem:
        """Check what the user gave; raises ArgumentError with the sentence to read."""
        if not callable(f):
            raise ArgumentError(f"f is a callable f(t, y) -> dy/dt; got {type(f).__name__}")
        if not isinstance(args, tuple):
            raise ArgumentError(
                f"args is a tuple, handed on as f(t, y, *args); got {type(args).__name__}"
            )
        layout, packed = Layout.of(y0)
        if not (packed.is_floating_point() or packed.is_complex()):
            raise ArgumentError(
                f"y0 is floating point or complex; got {packed.dtype}: use y0.float()"
            )
        if not bool(torch.isfinite(packed.detach()).all()):
            raise ArgumentError("y0 holds NaN or infinite values; nothing can be solved from there")
        ts = _times(t, "t")
        times = tuple(ts.detach().tolist())
        if not times or not _sorted(times):
            raise ArgumentError(
                f"t has at least one time and runs one way, up or down; got {list(times)[:6]}"
            )
        dtype = time_dtype or packed.dtype.to_real()
        if not dtype.is_floating_point:
            raise ArgumentError(f"time_dtype is a floating-point dtype; got {dtype}")
        field = Field(f, layout, packed, dtype, args)
        jumps = () if jump_times is None else _inside(_times(jump_times, "jump_times"), times)
        return cls(field, packed, ts, times, jumps, dtype)


def _times(t: Any, name: str) -> Tensor:
    try:
        # A list of floats is float64 whatever torch's default is: the clock is.
        times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"{name} is a tensor or a list of numbers; got {t!r:.60}") from None
    if times.dim() != 1:
        raise ArgumentError(f"{name} is one-dimensional; got shape {tuple(times.shape)}")
    if times.is_complex() or times.dtype == torch.bool:
        raise ArgumentError(f"{name} holds real numbers; got {times.dtype}")
    if not bool(torch.isfinite(times.detach()).all()):
        raise ArgumentError(f"{name} holds values that are not finite: {times.tolist()[:6]}")
    return times.to(torch.float64)


def _sorted(times: tuple[float, ...]) -> bool:
    pairs = list(pairwise(times))
    return all(a <= b for a, b in pairs) or all(a >= b for a, b in pairs)


def _inside(jumps: Tensor, times: tuple[float, ...]) -> tuple[float, ...]:
    low, high = min(times), max(times)
    inside = sorted({jump for jump in jumps.tolist() if low < jump < high})
    return tuple(inside if times[-1] >= times[0] else reversed(inside))


def neighbours(t: float, dtype: torch.dtype, direction: float) -> tuple[float, float]:
    """Return the last time before and the first time after `t`, as f sees time.

    The clock is finer than f's dtype; two sides of a jump must differ in what f is given.
    """
    seen = torch.tensor(t, dtype=torch.float64).to(dtype)
    ahead = torch.tensor(math.copysign(math.inf, direction), dtype=dtype)
    return float(torch.nextafter(seen, -ahead)), float(torch.nextafter(seen, ahead))
