"""Triton kernels: every stage sum in one pass over memory, solution, error and norm in one more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ode_core import ArgumentError, Tolerance
from ode_core.tolerance import finite
from ode_solvers.kernels.programs import combine_kernel, finish_kernel
from ode_solvers.tableau import Row

_BLOCK = 1024


@dataclass(frozen=True)
class Fused:
    """The kernel on CUDA tensors, and on the CPU in Triton's interpreter (TRITON_INTERPRET=1)."""

    name: str = "triton"

    def prepare(self, dt: float | Tensor, y: Tensor) -> Tensor:
        """Return the step size as a float64 value on the state's device.

        Raises ArgumentError for a state on a device that Triton cannot reach, and for per-sample
        steps.
        """
        if isinstance(dt, Tensor):
            raise ArgumentError(
                "kernel='triton' takes one step size for the whole state; take kernel='cpu', which "
                "runs on every device, for stepping='per_sample'"
            )
        if not y.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ArgumentError(
                f"kernel='triton' needs a state on a CUDA device; this one is on {y.device}: move "
                "it, or take kernel='cpu' (TRITON_INTERPRET=1 runs Triton's interpreter, for tests)"
            )
        return torch.full((1,), dt, dtype=torch.float64, device=y.device)

    def combine(self, y: Tensor, h: Tensor, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k, one launch."""
        used = [ks[index] for index, _ in row]
        if torch.is_grad_enabled() and any(x.requires_grad for x in (y, *used)):
            weights = tuple(weight for _, weight in row)
            combined: Tensor = _Combine.apply(self, weights, h, y, *used)
            return combined
        return self._combined(y, h, tuple(weight for _, weight in row), used)

    def finish(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Tensor,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, tuple[float, ...]]:
        """Return the new state and each estimate's norm, one launch for each estimate."""
        recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (y0, *ks))
        if y1 is None and (recorded or tolerance.segments):
            y1 = self.combine(y0, h, solution, ks)
        made, norms = y1, []
        with torch.no_grad():
            for error in errors:
                made, norm = self._norm(y0, made, h, solution, error, ks, tolerance)
                norms.append(norm)
        assert made is not None  # there is at least one estimate
        return (made if y1 is None else y1), tuple(norms)

    def _combined(
        self, y: Tensor, h: Tensor, weights: tuple[float, ...], used: Sequence[Tensor]
    ) -> Tensor:
        (start, *slopes), out, flat = _aligned(y, [y, *used])
        if flat.numel():
            size = flat.numel()
            self.launch(
                combine_kernel,
                triton.cdiv(size, _BLOCK),
                (start, flat, h, tuple(slopes), size),
                {"W": weights, "ACC": _accumulator(flat), "BLOCK": _BLOCK},
            )
        return out

    def _norm(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Tensor,
        solution: Row,
        error: Row,
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, float]:
        if y0.numel() == 0:
            return (torch.empty_like(y0) if y1 is None else y1), 0.0
        if tolerance.segments:
            parts = self._by_segment(y0, y1, h, error, ks, tolerance)
            return y1 if y1 is not None else y0, max(parts)
        if y0.is_complex():
            # |y| of a complex entry mixes two reals; the plain formula has the whole number.
            return self._complex_norm(y0, y1, h, solution, error, ks, tolerance)
        given = [y0, *ks] if y1 is None else [y0, *ks, y1]
        (start, *slopes), out, flat = _aligned(y0, given)
        if y1 is not None:
            flat, out = slopes.pop(), y1
        b = dict(solution) if y1 is None else {}
        e = dict(error)
        indices = sorted(set(b) | set(e))
        size = start.numel()
        blocks = triton.cdiv(size, _BLOCK)
        partial = torch.empty(blocks, dtype=torch.float64, device=y0.device)
        allowed, rtol, atol, wide = _allowances(tolerance, y0)
        self.launch(
            finish_kernel,
            blocks,
            (start, flat, partial, h, allowed, rtol, atol, tuple(slopes[i] for i in indices), size),
            {
                "B": tuple(b.get(i, 0.0) for i in indices),
                "E": tuple(e.get(i, 0.0) for i in indices),
                "MAKE": y1 is None,
                "WIDE": wide,
                "ACC": _accumulator(flat),
                "BLOCK": _BLOCK,
            },
        )
        return out, finite(float(partial.sum().item()) / size)

    def _by_segment(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Tensor,
        error: Row,
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> list[float]:
        assert y1 is not None  # made by `finish` before
        norms, start = [], 0
        for size in tolerance.segments:
            cut = slice(start, start + size)
            rtol, atol = tolerance.rtol, tolerance.atol
            own = Tolerance(
                rtol[cut] if isinstance(rtol, Tensor) else rtol,
                atol[cut] if isinstance(atol, Tensor) else atol,
            )
            parts = [k[cut] for k in ks]
            norms.append(self._norm(y0[cut], y1[cut], h, (), error, parts, own)[1])
            start += size
        return norms

    def _complex_norm(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Tensor,
        solution: Row,
        error: Row,
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, float]:
        made = self.combine(y0, h, solution, ks) if y1 is None else y1
        estimate = self.combine(torch.zeros_like(y0), h, error, ks)
        return made, tolerance.norm(estimate, y0, made)

    def launch(
        self, kernel: Any, blocks: int, pointers: tuple[Any, ...], constants: dict[str, Any]
    ) -> None:
        """Start a kernel on the device of its first tensor; the one place where that happens."""
        device = pointers[0].device
        # Triton launches on the current device, which need not be the state's.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            # Said aloud: its default changes between versions of Triton, and results with it.
            kernel[(blocks,)](*pointers, **constants, enable_fp_fusion=True)


class _Combine(torch.autograd.Function):
    """The transposed sum is a scaled copy for every slope."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Fused, weights: tuple[float, ...], h: Tensor, y: Tensor, *ks: Tensor
    ) -> Tensor:
        ctx.weights = weights
        ctx.save_for_backward(h)
        return kernel._combined(y, h, weights, ks)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (h,) = ctx.saved_tensors
        step = h.to(grad.dtype.to_real() if grad.dtype.itemsize > 2 else torch.float32)
        slopes = [(grad * (step * weight)).to(grad.dtype) for weight in ctx.weights]
        return None, None, None, grad, *slopes


def _aligned(y: Tensor, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return tensors as flat real memory in one order, a fresh result, and its flat memory.

    Dense tensors with the state's own strides are taken as they lie, others are copied.
    """
    out = torch.empty_like(y)
    strides = out.stride()
    same = [
        x if x.stride() == strides and x.data_ptr() % 16 == 0 else torch.empty_like(y).copy_(x)
        for x in tensors
    ]
    return [_flat(x) for x in same], out, _flat(out)


def _flat(x: Tensor) -> Tensor:
    real = torch.view_as_real(x) if x.is_complex() else x
    return real.detach().as_strided((real.numel(),), (1,))


def _allowances(tolerance: Tolerance, y0: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return the two numbers, two per-entry tensors, and which of them count."""
    rtol, atol = tolerance.rtol, tolerance.atol
    device = y0.device
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        dtype = torch.float64 if y0.dtype == torch.float64 else torch.float32
        spread = [
            torch.empty_like(y0, dtype=dtype).copy_(torch.as_tensor(x, dtype=dtype, device=device))
            for x in (rtol, atol)
        ]
        relative, absolute = (_flat(x) for x in spread)
        return absolute, relative, absolute, True
    allowed = torch.tensor([rtol, atol], dtype=torch.float64).to(device, non_blocking=True)
    return allowed, allowed, allowed, False


def _accumulator(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
