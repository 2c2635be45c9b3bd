"""What the user gave, checked once; behind this door nothing is checked again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ode_core.dtypes import real
from ode_core.errors import ArgumentError
from ode_core.field import Field
from ode_core.knots import knots_of
from ode_core.layout import Layout
from ode_core.solution import Stats
from ode_core.tolerance import all_finite
from ode_core.transforms import hidden, mapped

if TYPE_CHECKING:
    from ode_core.clock import Clock
    from ode_core.events import Event

_SHORT = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Given:
    """What is asked about a vector field beside its solution: events, and integrals along it."""

    args: tuple[Any, ...] = ()
    events: tuple[Event, ...] = ()
    integrand: Callable[..., Any] | None = None

    @property
    def asks(self) -> bool:
        """Whether there is anything beside the solution itself."""
        return bool(self.events) or self.integrand is not None


@dataclass(frozen=True, eq=False)
class Problem:
    """A checked initial value problem.

    `y0` is the packed state, `ts` the `[T]` float64 times, `times` the same as host floats, `jumps`
    the times strictly inside where f is not smooth, in the direction of the solve, `edges` whether
    the first and the last time are such, too. `dtype` is that
    of the user's state; a 16-bit one is packed in 32 bits. `stats` is what solving it has cost so
    far, backward passes included. `clock` is there where steps are differentiated in time.
    """

    field: Field
    y0: Tensor
    ts: Tensor
    times: tuple[float, ...]
    jumps: tuple[float, ...]
    edges: tuple[bool, bool]
    time_dtype: torch.dtype
    dtype: torch.dtype
    given: Given
    stats: Stats = dataclasses.field(default_factory=Stats)
    clock: Clock | None = None

    @property
    def layout(self) -> Layout:
        """How the user's state lies in `y0`."""
        return self.field.layout

    @property
    def direction(self) -> float:
        """1.0 forwards in time, -1.0 backwards."""
        return 1.0 if self.times[-1] >= self.times[0] else -1.0

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last time at which f is called: of a jump on an end, the inner side."""
        first, last = self.times[0], self.times[-1]
        begin = neighbours(first, self.time_dtype, self.direction)[1] if self.edges[0] else first
        end = neighbours(last, self.time_dtype, self.direction)[0] if self.edges[1] else last
        return (begin, end) if (end - begin) * self.direction > 0.0 else (first, last)

    def at(self, times: tuple[float, ...], wanted: tuple[int, ...]) -> Problem:
        """Return the problem with states at other times, `wanted` of which were asked for.

        The times that were asked for keep their gradient.
        """
        if times == self.times:
            return self
        ts = torch.tensor(times, dtype=torch.float64, device=self.ts.device)
        if self.ts.requires_grad:
            places = torch.tensor(wanted, dtype=torch.long, device=ts.device)
            ts = ts.index_copy(0, places, self.ts[: len(wanted)])
        edges = (self.edges[0], self.edges[1] and times[-1] == self.times[-1])
        return dataclasses.replace(self, ts=ts, times=times, edges=edges)


def build(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    given: Given,
    jump_times: Any = None,
    time_dtype: torch.dtype | None = None,
) -> Problem:
    """Check what the user gave; raises ArgumentError with the sentence to read."""
    check_callable(f, given.args)
    ts = as_times(t, "t")
    if mapped(ts):
        raise ArgumentError(
            "vmap cannot map over times: the steps of a solve depend on them; give a batch with "
            "stepping='per_sample' its times as [B, T]"
        )
    if ts.dim() != 1:
        raise ArgumentError(f"t is one-dimensional; got shape {tuple(ts.shape)}")
    jumps = _jumps(jump_times, knots_of(f, given.args))
    return posed(f, y0, ts, given, jumps=jumps, time_dtype=time_dtype)


def posed(
    f: Callable[..., Any],
    y0: Any,
    ts: Tensor | Sequence[float],
    given: Given,
    *,
    jumps: Sequence[float],
    time_dtype: torch.dtype | None,
    kind: type[Field] = Field,
) -> Problem:
    """Return the problem with times, `[T]` float64 or host floats."""
    layout, packed = Layout.of(y0)
    dtype, packed = widened(packed)
    times = tuple(ts.detach().tolist() if isinstance(ts, Tensor) else ts)
    if not all(map(math.isfinite, times)):
        raise ArgumentError(f"t holds values that are not finite: {list(times)[:6]}")
    if not times or not _sorted(times):
        raise ArgumentError(
            f"t has at least one time and runs one way, up or down; got {list(times)[:6]}"
        )
    clock = time_dtype_of(time_dtype, dtype)
    field = kind(f, layout, packed, (clock, dtype), given.args)
    if not isinstance(ts, Tensor):
        ts = torch.tensor(times, dtype=torch.float64)
    edges = (times[0] in (known := set(jumps)), times[-1] in known)
    within = _inside(known, times)
    return Problem(field, packed, ts, times, within, edges, clock, dtype, given, Stats())


def check_callable(f: Any, args: Any) -> None:
    """Raise ArgumentError for what cannot be called as f(t, y, *args)."""
    if not callable(f):
        raise ArgumentError(f"f is a callable f(t, y) -> dy/dt; got {type(f).__name__}")
    if not isinstance(args, tuple):
        raise ArgumentError(
            f"args is a tuple, handed on as f(t, y, *args); got {type(args).__name__}"
        )


def widened(packed: Tensor) -> tuple[torch.dtype, Tensor]:
    """Return a state's dtype and the state in the dtype that steps are made in.

    Raises ArgumentError for a state that is neither real nor complex, or not finite.
    """
    if not (packed.is_floating_point() or packed.is_complex()):
        raise ArgumentError(f"y0 is floating point or complex; got {packed.dtype}: use y0.float()")
    if not hidden(packed) and not all_finite(packed):
        raise ArgumentError("y0 holds NaN or infinite values; nothing can be solved from there")
    return packed.dtype, packed.float() if packed.dtype in _SHORT else packed


def time_dtype_of(time_dtype: torch.dtype | None, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which f receives time; raises ArgumentError unless floating point."""
    chosen = time_dtype or real(dtype)
    if not chosen.is_floating_point:
        raise ArgumentError(f"time_dtype is a floating-point dtype; got {chosen}")
    return chosen


def as_times(t: Any, name: str) -> Tensor:
    """Return times of any shape as float64; raises ArgumentError for what are no real numbers."""
    try:
        # A list of floats is float64 whatever torch's default is: the clock is.
        times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"{name} is a tensor or a list of numbers; got {t!r:.60}") from None
    if times.is_complex() or times.dtype == torch.bool:
        raise ArgumentError(f"{name} holds real numbers; got {times.dtype}")
    return times.to(torch.float64)


def require_finite(times: Tensor, name: str) -> None:
    """Raise ArgumentError for a time that is NaN or infinite."""
    if not bool(torch.isfinite(times.detach()).all()):
        raise ArgumentError(f"{name} holds values that are not finite: {times.tolist()[:6]}")


def _jumps(jump_times: Any, knots: Tensor | None) -> list[float]:
    """Return the times that were given and the knots of the inputs that f uses."""
    if jump_times is None and knots is None:
        return []
    jumps = as_times([] if jump_times is None else jump_times, "jump_times")
    if jumps.dim() != 1:
        raise ArgumentError(
            f"jump_times is one-dimensional; got shape {tuple(jumps.shape)}: jump times of each "
            "sample go with stepping='per_sample'"
        )
    require_finite(jumps, "jump_times")
    if knots is not None and knots.dim() != 1:
        raise ArgumentError(
            f"f uses a control with knots of its own for each of {len(knots)} samples; take "
            "stepping='per_sample'"
        )
    found: list[float] = jumps.tolist()
    return found if knots is None else found + knots.tolist()


def _sorted(times: tuple[float, ...]) -> bool:
    pairs = list(pairwise(times))
    return all(a <= b for a, b in pairs) or all(a >= b for a, b in pairs)


def _inside(jumps: set[float], times: tuple[float, ...]) -> tuple[float, ...]:
    low, high = min(times), max(times)
    inside = sorted(jump for jump in jumps if low < jump < high)
    return tuple(inside if times[-1] >= times[0] else reversed(inside))


def neighbours(t: float, dtype: torch.dtype, direction: float) -> tuple[float, float]:
    """Return the last time before and the first time after `t`, as f sees time.

    The clock is finer than f's dtype; two sides of a jump must differ in what f is given.
    """
    seen = torch.tensor(t, dtype=torch.float64).to(dtype)
    ahead = torch.tensor(math.copysign(math.inf, direction), dtype=dtype)
    return float(torch.nextafter(seen, -ahead)), float(torch.nextafter(seen, ahead))
