"""Triton kernels: every stage sum in one pass over memory, solution, error and norm in one more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from ode_core import ArgumentError, Tolerance
from ode_core.loops.pace import TorchPace
from ode_core.rows import along
from ode_solvers.kernels import programs
from ode_solvers.kernels.cpu import Chain
from ode_solvers.kernels.linear import Span, Sum, Weights, in_kind, weights_of
from ode_solvers.kernels.memory import Flat, allowances, blocks_of, by_segment, flat, real
from ode_solvers.kernels.pace import fused
from ode_solvers.tableau import Dense, Row

_BLOCK = 1024
Step: TypeAlias = float | Tensor | Span


@dataclass(frozen=True)
class Fused:
    """The kernel on CUDA tensors, and on the CPU in Triton's interpreter (TRITON_INTERPRET=1)."""

    name: str = "triton"

    def prepare(self, dt: float | Tensor, y: Tensor) -> Step:
        """Return the step size: a number, or float64 on the state's device, 0-d or `[B]`.

        With a step size on the device nothing is read from it, and norms stay there. Raises
        ArgumentError for a state on a device that Triton cannot reach.
        """
        if not y.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ArgumentError(
                f"kernel='triton' needs a state on a CUDA device; this one is on {y.device}: move "
                "it, or take kernel='cpu' (TRITON_INTERPRET=1 runs Triton's interpreter, for tests)"
            )
        if isinstance(dt, Tensor):
            return dt.contiguous()
        return Span(dt) if torch.is_grad_enabled() else dt

    def combine(self, y: Tensor, h: Step, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k, one launch; through torch where `h` needs a gradient.

        The sums of a recorded step hang together: backwards each slope takes one launch.
        """
        if isinstance(h, Tensor) and h.requires_grad:
            return Chain().combine(y, along(h, y), row, ks)
        weights, used = weights_of(row), [ks[index] for index, _ in row]
        if not isinstance(h, Span):
            return self.sum(y, h, 0.0, weights, used)
        if torch.is_grad_enabled() and any(x.requires_grad for x in (y, *ks)):
            size = h.size
            out = h.swept(y, row, ks, self.weigh, lambda: self.summed(y, size, 0.0, weights, used))
            if out is not None:
                return out
        return self.sum(y, h.size, 0.0, weights, used)

    def weigh(self, h: float, row: Row, xs: Mapping[int, Tensor]) -> Tensor:
        """Return h sum w x, one launch, without a graph."""
        used = [xs[index] for index, _ in row]
        return self.summed(used[0], h, 0.0, weights_of(row), used, add=False)

    def interpolate(
        self, y: Tensor, h: Step, theta: float | Tensor, dense: Dense, ks: Sequence[Tensor]
    ) -> Tensor:
        """Return y + h sum b(theta) k, one launch; gradients reach `y` and `ks` alone."""
        h = h.size if isinstance(h, Span) else h
        if isinstance(h, Tensor) and not isinstance(theta, Tensor):
            theta = torch.full_like(h, theta)
        used = [(k, (0.0, *c)) for k, c in zip(ks, dense.coefficients, strict=True) if any(c)]
        return self.sum(y, h, theta, tuple(c for _, c in used), [k for k, _ in used])

    def outputs(
        self,
        y: Tensor,
        dt: Tensor,
        dense: Dense,
        ks: Sequence[Tensor],
        rows: Tensor,
        theta: Tensor,
    ) -> Tensor:
        """Return the continuous output of rows, at their thetas: one launch on what they hold."""
        used = [k[rows] if any(c) else y for k, c in zip(ks, dense.coefficients, strict=True)]
        return self.interpolate(y[rows], dt[rows], theta, dense, used)

    def finish(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: Step,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the new state and each estimate's norm: one launch, two for a large state.

        With a number `h` all norms are read from the device at once, else none is.
        """
        steps = (h,) if isinstance(h, Tensor) else ()
        recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (y0, *ks, *steps))
        if y1 is None and (recorded or tolerance.segments):
            y1 = self.combine(y0, h, solution, ks)
        h = h.size if isinstance(h, Span) else h
        if y0.numel() == 0:
            y1 = torch.empty_like(y0) if y1 is None else y1
            return y1, tuple(tolerance.norm(y1, y0, y1) for _ in errors)
        rows = h.shape if isinstance(h, Tensor) else ()
        norms = torch.empty((len(errors), *rows), dtype=torch.float64, device=y0.device)
        with torch.no_grad():
            if tolerance.segments:
                assert y1 is not None  # made above
                norms = self._by_segment(y0, y1, h, errors, ks, tolerance)
            else:
                y1 = self._norms(norms, (y0, y1), h, solution, errors, ks, tolerance)
        return y1, tuple(norms.unbind() if isinstance(h, Tensor) else norms.tolist())

    def sum(
        self,
        y: Tensor,
        h: float | Tensor,
        theta: float | Tensor,
        weights: Weights,
        ks: Sequence[Tensor],
    ) -> Tensor:
        """Return y + h sum w(theta) k, differentiable in `y` and `ks`."""
        if torch.is_grad_enabled() and any(x.requires_grad for x in (y, *ks)):
            combined: Tensor = Sum.apply(self, h, theta, weights, y, *ks)
            return combined
        return self.summed(y, h, theta, weights, ks)

    def summed(
        self,
        y: Tensor,
        h: float | Tensor,
        theta: float | Tensor,
        weights: Weights,
        ks: Sequence[Tensor],
        *,
        add: bool = True,
    ) -> Tensor:
        """Return y + h sum w(theta) k, or the sum alone, without a graph."""
        if y.numel() == 0:
            return torch.empty_like(y)
        given = flat(y, [y, *ks], h)
        start, *slopes = given.tensors
        self._launch(
            (programs.combine_kernel, programs.combine_rows_kernel),
            (start, given.memory, h, in_kind(theta, h), tuple(slopes)),
            given,
            {"W": weights, "ADD": add, "ACC": _accumulator(start)},
            h,
        )
        return given.out

    def scattered(
        self,
        grad: Tensor,
        h: float | Tensor,
        theta: float | Tensor,
        weights: Weights,
    ) -> list[Tensor]:
        """Return h w(theta) grad for each weight, one launch: the transpose of `summed`."""
        if grad.numel() == 0 or not weights:
            return [torch.empty_like(grad) for _ in weights]
        given = flat(grad, [grad], h)
        made = [given.out, *(torch.empty_like(given.out) for _ in weights[1:])]
        self._launch(
            (programs.scatter_kernel, programs.scatter_rows_kernel),
            (given.tensors[0], tuple(real(x) for x in made), h, in_kind(theta, h)),
            given,
            {"W": weights, "ACC": _accumulator(given.memory)},
            h,
        )
        return made

    def _norms(
        self,
        norms: Tensor,
        states: tuple[Tensor, Tensor | None],
        h: float | Tensor,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> Tensor:
        y0, y1 = states
        given = flat(y0, [y0, *ks] if y1 is None else [y0, *ks, y1], h)
        start, *slopes = given.tensors
        after = given.memory if y1 is None else slopes.pop()
        b = dict(solution) if y1 is None else {}
        es = [dict(error) for error in errors]
        used = sorted(set(b).union(*es))
        # Magnitudes of complex entries take registers.
        block = _BLOCK // 2 if y0.dtype == torch.complex128 else _BLOCK
        blocks, _ = blocks_of(given, block, h)
        shape = (len(errors), given.rows, blocks)
        last = blocks == 1
        partial = norms if last else torch.empty(shape, dtype=torch.float64, device=y0.device)
        wide = isinstance(tolerance.rtol, Tensor) or isinstance(tolerance.atol, Tensor)
        rtol, atol, relative, absolute = tolerance.rtol, tolerance.atol, partial, partial
        if wide:
            rtol, atol = 0.0, 0.0
            relative, absolute = (real(x) for x in allowances(tolerance, given.out))
        entries = given.size // 2 if y0.is_complex() else given.size
        self._launch(
            (programs.finish_kernel, programs.finish_rows_kernel),
            (start, after, partial, h, rtol, atol, relative, absolute,
             tuple(slopes[i] for i in used)),
            given,
            {
                "count": float(entries),
                "B": tuple(b.get(i, 0.0) for i in used),
                "E": tuple(tuple(e.get(i, 0.0) for i in used) for e in es),
                "MAKE": y1 is None, "WIDE": wide, "PAIRS": y0.is_complex(), "LAST": last,
                "ACC": _accumulator(start),
            },
            h,
            block,
        )  # fmt: skip
        if not last:
            rows = len(errors) * given.rows
            arguments = (partial, norms, blocks, float(entries))
            self.launch(programs.norm_kernel, rows, arguments, {"BLOCK": _BLOCK})
        return given.out if y1 is None else y1

    def _by_segment(
        self,
        y0: Tensor,
        y1: Tensor,
        h: float | Tensor,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> Tensor:
        found, start = [], 0
        for size, own in zip(tolerance.segments, by_segment(tolerance), strict=True):
            cut = slice(start, start + size)
            norms = torch.zeros(len(errors), dtype=torch.float64, device=y0.device)
            if size:
                parts = [k[cut] for k in ks]
                self._norms(norms, (y0[cut], y1[cut]), h, (), errors, parts, own)
            found.append(norms)
            start += size
        return torch.stack(found).amax(0)

    def pace(self, plain: TorchPace) -> Any:
        """Return step-size control on the device in one launch, where there is a program for it."""
        return fused(plain, self.launch)

    def _launch(
        self,
        pair: tuple[Any, Any],
        arguments: tuple[Any, ...],
        given: Flat,
        constants: dict[str, Any],
        h: float | Tensor,
        block: int = _BLOCK,
    ) -> None:
        """Start the program for one step size, or the one for step sizes in device memory."""
        size, count = given.size, given.rows
        # 32 bytes of each tensor a thread: more in float64 would take its registers.
        constants["num_warps"] = 8 if constants["ACC"] == tl.float64 else 4
        if not isinstance(h, Tensor):
            constants["BLOCK"] = block
            return self.launch(pair[0], triton.cdiv(size, block), (*arguments, size), constants)
        columns = min(triton.next_power_of_2(max(size, 2)), block)
        columns = block if count == 1 else columns
        rows, (blocks, align) = block // columns, blocks_of(given, columns, h)
        constants |= {"R": rows, "C": columns, "MANY": count > 1, "ALIGN": align}
        flat_ = pair[1] is not programs.finish_rows_kernel
        many = triton.cdiv(count * size, block) if flat_ else triton.cdiv(count, rows)
        grid = count * blocks if rows == 1 else many
        return self.launch(pair[1], grid, (*arguments, count, size, blocks), constants)

    def launch(
        self, kernel: Any, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any]
    ) -> None:
        """Start a program on the device of its first tensor; the one place where that happens."""
        device = arguments[0].device
        # Triton launches on the current device, which need not be the state's.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            # Said aloud: its default changes between versions of Triton, and results with it.
            kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)


def _accumulator(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
