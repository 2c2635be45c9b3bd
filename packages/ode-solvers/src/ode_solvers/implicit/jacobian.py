"""Jacobians of f by forward differentiation, with fallbacks for what torch cannot push through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core import ArgumentError, UnsupportedError
from ode_solvers.implicit.system import System

UserJacobian = Callable[[Any, Tensor], Tensor]


def jacobian(system: System, t: Any, rows: Tensor, own: UserJacobian | None = None) -> Tensor:
    """Return df/dy at `[B, n]` rows, `[B, n, n]`.

    One evaluation of f on the whole state for each column, which all systems share: a forward
    derivative along one unit vector. Where an operation in f has no forward derivative, rows come
    from backward ones, after one evaluation; where f leaves torch, columns are differences. `own`
    is the user's function of t and the state. No graph is recorded.
    """
    if own is not None:
        return _given(system, t, rows, own)
    with torch.no_grad():
        rows = rows.detach()
        try:
            return _columns(system, t, rows)
        except (RuntimeError, NotImplementedError):
            pass
        return _pulled(system, t, rows)


def product(system: System, t: Any, rows: Tensor, along: Tensor) -> Tensor:
    """Return the product of df/dy with vectors, both `[B, n]`: one evaluation of f or two."""
    with torch.no_grad():
        try:
            found = _pushed(system, t, rows, along)
        except (RuntimeError, NotImplementedError):
            found = None
        if found is not None:
            return found
        size = along.norm(dim=1, keepdim=True)
        step = torch.finfo(rows.dtype).eps ** 0.5 * (1.0 + rows.norm(dim=1, keepdim=True))
        step = step / torch.where(size == 0.0, 1.0, size)
        ahead = system.slope(t, rows + step * along)
        return torch.div(ahead - system.slope(t, rows), step)


def pulled_rows(slope: Tensor, rows: Tensor) -> Tensor:
    """Return the Jacobian `[..., n, n]` of a recorded slope, `[..., n]`, by backward derivatives.

    The graph of `slope` is kept; the result has none.
    """
    found = []
    for index in range(slope.shape[-1]):
        unit = torch.zeros_like(slope)
        unit[..., index] = 1.0
        row = None
        if slope.requires_grad:
            (row,) = torch.autograd.grad(
                slope, rows, unit, retain_graph=True, create_graph=False, allow_unused=True
            )
        found.append(torch.zeros_like(rows) if row is None else row)
    return torch.stack(found, -2)


def _given(system: System, t: Any, rows: Tensor, own: UserJacobian) -> Tensor:
    if system.like.is_complex():
        raise UnsupportedError(
            "jacobian= is for real states; without it the Jacobian of a complex one is computed"
        )
    with torch.no_grad():
        time = t if isinstance(t, Tensor) else torch.scalar_tensor(t, dtype=torch.float64)
        time = time.to(rows.device, system.like.dtype)
        found = own(time, system.state(rows.detach()))
    count, size = rows.shape
    if not isinstance(found, Tensor) or found.numel() != count * size * size:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        wanted = f"[{size}, {size}]" if count == 1 else f"[{count}, {size}, {size}]"
        raise ArgumentError(f"jacobian(t, y) returns df/dy, {wanted}; got {shape}")
    return found.detach().to(rows).reshape(count, size, size)


def _pushed(system: System, t: Any, rows: Tensor, along: Tensor) -> Tensor | None:
    """Return the derivative of f along vectors, or None where nothing of it came through."""
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(rows, along.to(rows.dtype))
        tangent = forward_ad.unpack_dual(system.slope(t, dual)).tangent
        return None if tangent is None else tangent.detach()


def _columns(system: System, t: Any, rows: Tensor) -> Tensor:
    units = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    units = units[:, None, :].expand(-1, *rows.shape).contiguous()
    columns = [_pushed(system, t, rows, unit) for unit in units]
    if all(column is None for column in columns):
        # f is constant, or computed where torch does not look: only values can tell.
        return _differences(system, t, rows, units)
    return torch.stack([torch.zeros_like(rows) if x is None else x for x in columns], 2)


def _pulled(system: System, t: Any, rows: Tensor) -> Tensor:
    with torch.enable_grad():
        rows = rows.detach().requires_grad_()
        slope = system.slope(t, rows)
        return pulled_rows(slope, rows).detach()


def _differences(system: System, t: Any, rows: Tensor, units: Tensor) -> Tensor:
    base = system.slope(t, rows)
    step = torch.finfo(rows.dtype).eps ** 0.5
    # A component near zero is moved by what its neighbours are worth.
    size = torch.maximum(rows.abs(), 1e-3 * rows.abs().amax(1, keepdim=True)) + step
    columns = []
    for unit in units:
        moved = rows + step * size * unit
        width = ((moved - rows) * unit).sum(1, keepdim=True)
        columns.append((system.slope(t, moved) - base) / width)
    return torch.stack(columns, 2)
