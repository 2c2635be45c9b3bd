"""Inputs u(t) that are known at knots: held, linear, or a cubic between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ode_core.errors import ArgumentError
from ode_core.input_checks import as_knots, as_tensor, is_per_sample, refuse_missing
from ode_core.spline import second_derivatives

KINDS = ("hold", "linear", "cubic", "hermite")


class Control(nn.Module):
    """An input u(t) from its values at knots.

    `times` is `[K]`, or `[B, K]` with rows padded at the end by NaN, rising; `values` is
    `[K, ...]`, or `[B, K, ...]` for one input a sample, floating point or complex. `kind` is one of

    - "hold": u(t) = v_k from t_k up to, and without, t_k+1;
    - "linear": straight between knots;
    - "cubic": the natural cubic spline, twice continuously differentiable, its second derivative 0
      at both ends; it looks ahead at all values;
    - "hermite": cubics with the backward differences (v_k - v_k-1) / (t_k - t_k-1) as slopes at the
      knots (the first: the forward one), once continuously differentiable; it looks one knot ahead.

    Before the first knot and after the last, u stays at the first and the last value. Knots and `t`
    are compared in the dtype of `t`, so that in float32 too the sides of a knot are told apart.
    Gradients flow into `values` and `t`, not into `times`. `solve` ends its steps at the knots of
    every input that it finds in f (see `ode_core.knots`).

    As a part of a module it moves with `.to()`, knots keeping float64, and is trained where
    `values` is a Parameter; only then is it in the state_dict. `knots` are `times` in float64 on
    the CPU.

    Source of "hermite": Morrill et al., On the choice of interpolation scheme for neural CDEs,
    TMLR 2022, section 3.

    Raises ArgumentError for knots that do not rise, missing values, and shapes that do not fit;
    `per_sample` is needed only where `values` is `[K, K, ...]` for shared times.
    """

    values: Tensor
    _grid: Tensor
    _last: Tensor

    def __init__(
        self, times: Any, values: Any, kind: str = "linear", *, per_sample: bool | None = None
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ArgumentError(f"kind is one of {', '.join(KINDS)}; got {kind!r}")
        self.kind = kind
        self.knots = as_knots(times)
        values = as_tensor(values, "values")
        if not (values.is_floating_point() or values.is_complex()):
            values = values.to(torch.get_default_dtype())
        self.per_sample = is_per_sample(self.knots, values, per_sample)
        counts = torch.isfinite(self.knots).sum(-1)
        refuse_missing(self.knots, values, self.per_sample)
        if isinstance(values, nn.Parameter):
            self.values = values
        else:
            self.register_buffer("values", values, persistent=False)
        # Beyond the end of a row, its last knot again.
        last = self.knots.gather(-1, (counts - 1).unsqueeze(-1))
        grid = torch.where(self.knots.isnan(), last, self.knots).to(values.device)
        self.register_buffer("_grid", grid, persistent=False)
        self.register_buffer("_last", (counts - 1).to(values.device), persistent=False)
        self._forget()

    def forward(self, t: float | Tensor) -> Tensor:
        """Return u(t): `[...]`, or `[B, ...]` per sample; at `[B]` times `[B, ...]`.

        Shared inputs take any number of times, inputs per sample one time or one a sample.
        """
        t, single = self._time(t)
        if self.kind == "hold":
            return self._as(self._pick(self.values, self._before(t)), single)
        at = self._piece(t)
        low, high = self._pick(self.values, at.lower), self._pick(self.values, at.upper)
        theta = self._weights(at.theta, low)
        if self.kind == "linear":
            return self._as(torch.lerp(low, high, theta), single)
        rest = 1.0 - theta
        if self.kind == "cubic":
            square = self._weights(at.width.square() / 6.0, low)
            bent = (rest**3 - rest) * self._pick(self._curved(), at.lower)
            bent = bent + (theta**3 - theta) * self._pick(self._curved(), at.upper)
            return self._as(torch.lerp(low, high, theta) + square * bent, single)
        rise = high - low
        entry = self._weights(at.width, low) * self._slope(at.lower - 1)
        bent = theta * rest * (rest * entry - theta * rise)
        return self._as(low + theta.square() * (3.0 - 2.0 * theta) * rise + bent, single)

    def derivative(self, t: float | Tensor) -> Tensor:
        """Return du/dt, shaped like u(t): 0 beyond the ends, at a knot that of the later piece."""
        t, single = self._time(t)
        if self.kind == "hold":
            return self._as(torch.zeros_like(self._pick(self.values, self._before(t))), single)
        at = self._piece(t)
        low = self._pick(self.values, at.lower)
        rise = self._pick(self.values, at.upper) - low
        theta, width = self._weights(at.theta, low), self._weights(at.width, low)
        rest = 1.0 - theta
        if self.kind == "linear":
            slope = rise / width
        elif self.kind == "cubic":
            bent = (3.0 * theta.square() - 1.0) * self._pick(self._curved(), at.upper)
            bent = bent - (3.0 * rest.square() - 1.0) * self._pick(self._curved(), at.lower)
            slope = rise / width + width / 6.0 * bent
        else:
            slope = (6.0 * theta * rest + theta * (3.0 * theta - 2.0)) * rise / width
            slope = slope + rest * (1.0 - 3.0 * theta) * self._slope(at.lower - 1)
        inside = self._weights(at.inside, low).bool()
        return self._as(torch.where(inside, slope, 0.0), single)

    def extra_repr(self) -> str:
        """Return what stands between the brackets when it is printed."""
        return f"kind={self.kind!r}, knots={tuple(self.knots.shape)}, per_sample={self.per_sample}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}, "_spline": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Control:
        grid = self._grid
        super()._apply(fn, recurse)
        # Of a change of dtype the knots take no notice.
        self._grid = grid.to(self._grid.device)
        self._forget()
        return self

    def _forget(self) -> None:
        self._tables: dict[torch.dtype, _Table] = {}
        self._spline: tuple[Tensor, tuple[int, bool], Tensor] | None = None

    def _time(self, t: float | Tensor) -> tuple[Tensor, bool]:
        """Return times `[1]` or `[B]` on the input's device, and whether one was given."""
        time = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
        time = time.to(self._grid.device)
        if not time.is_floating_point():
            time = time.to(torch.float64)
        if time.dim() > 1 or (self.per_sample and time.dim() and len(time) != len(self.values)):
            allowed = (
                f"[{len(self.values)}] times, one a sample" if self.per_sample else "[n] times"
            )
            raise ArgumentError(f"a control takes one time or {allowed}; got {list(time.shape)}")
        return time.reshape(-1), time.dim() == 0

    def _table(self, dtype: torch.dtype) -> _Table:
        if dtype not in self._tables:
            seen = self._grid.to(dtype)
            exact = seen.double()
            width = exact.diff(dim=-1, append=exact[..., -1:])
            lost = None
            # Asked of the knots on the CPU: no device is waited for.
            if bool((self.knots.to(dtype).diff(dim=-1) == 0.0).any()):
                apart = self._grid.diff(dim=-1, append=self._grid[..., -1:]) > 0.0
                lost = (width == 0.0) & apart
            width = torch.where(width > 0.0, width, 1.0)
            self._tables[dtype] = _Table(seen, exact, width, lost)
        return self._tables[dtype]

    def _before(self, t: Tensor) -> Tensor:
        """Return the index of the last knot that is not after `t`, `[1]` or `[B]`; else 0."""
        seen = self._table(t.dtype).seen
        if seen.dim() == 1:
            index = torch.searchsorted(seen, t.detach().contiguous(), right=True)
        else:
            query = t.detach().expand(len(seen)).unsqueeze(-1).contiguous()
            index = torch.searchsorted(seen, query, right=True).squeeze(-1)
        return torch.minimum((index - 1).clamp(min=0), self._last)

    def _piece(self, t: Tensor) -> _Piece:
        table = self._table(t.dtype)
        # The last knot belongs to the piece before it.
        lower = torch.minimum(self._before(t), (self._last - 1).clamp(min=0))
        width = self._knot(table.width, lower)
        raw = (t.double() - self._knot(table.exact, lower)) / width
        if table.lost is not None:
            raw = torch.where(self._knot(table.lost, lower), 2.0, raw)
        theta = raw.clamp(0.0, 1.0)
        return _Piece(lower, torch.minimum(lower + 1, self._last), theta, width, raw == theta)

    def _knot(self, table: Tensor, index: Tensor) -> Tensor:
        if table.dim() == 1:
            return table.index_select(0, index)
        return table.gather(-1, index.unsqueeze(-1)).squeeze(-1)

    def _pick(self, table: Tensor, index: Tensor) -> Tensor:
        """Return rows of `[K, ...]` or `[B, K, ...]`, with a leading `[1]` or `[B]`."""
        if not self.per_sample:
            return table.index_select(0, index)
        if len(index) == 1:
            return table.index_select(1, index).squeeze(1)
        return table[torch.arange(len(index), device=index.device), index]

    def _slope(self, lower: Tensor) -> Tensor:
        """Return the slope of the chord over the piece after a knot, the first for index -1."""
        lower = lower.clamp(min=0)
        low = self._pick(self.values, lower)
        high = self._pick(self.values, torch.minimum(lower + 1, self._last))
        width = self._knot(self._table(torch.float64).width, lower)
        return (high - low) / self._weights(width, low)

    def _curved(self) -> Tensor:
        """Return the spline's second derivatives, like `values`, made anew when these change."""
        values = self.values
        version = 0 if values.is_inference() else values._version
        state = (version, torch.is_grad_enabled() and values.requires_grad)
        if self._spline is None or self._spline[0] is not values or self._spline[1] != state:
            rows = values.to(torch.promote_types(values.dtype, torch.float32))
            rows = rows.unsqueeze(-1).flatten(1 + self.per_sample)
            place = torch.arange(self._grid.shape[-1], device=values.device)
            inside = (place > 0) & (place < self._last.unsqueeze(-1))
            widths = self._table(torch.float64).width[..., :-1].to(rows.dtype.to_real())
            curved = second_derivatives(rows, widths, inside.view(self._grid.shape))
            self._spline = values, state, curved.reshape(values.shape).to(values.dtype)
        return self._spline[2]

    @staticmethod
    def _weights(x: Tensor, like: Tensor) -> Tensor:
        """Return numbers `[1]` or `[B]` as `[n, 1, ...]` in the dtype of the values."""
        return x.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))

    def _as(self, u: Tensor, single: bool) -> Tensor:
        return u.squeeze(0) if single and not self.per_sample else u


class _Table(NamedTuple):
    """The knots as a dtype sees them, the same in float64, and the widths of the pieces after them.

    `lost` marks pieces between two knots that this dtype cannot tell apart; None without any.
    """

    seen: Tensor
    exact: Tensor
    width: Tensor
    lost: Tensor | None


class _Piece(NamedTuple):
    """Where a time lies: both knots' indices, how far between them, their distance, whether."""

    lower: Tensor
    upper: Tensor
    theta: Tensor
    width: Tensor
    inside: Tensor
