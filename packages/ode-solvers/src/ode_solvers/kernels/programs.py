"""The Triton programs of the fused kernel; `fused` starts them.

Coefficients are compile-time constants, so one source serves every table; step size and tolerances
travel as float64 device values, because a Python float becomes float32 on its way into a kernel.
Blocks that lie wholly inside the state take a path without masks, which keeps loads 16 bytes wide
for any size. Sums are accumulated in float32 (float64 for float64 states) and norms in a fixed
order, so results repeat to the bit.
"""

import triton
import triton.language as tl


@triton.jit
def _load(pointer, at, n, FULL: tl.constexpr, ACC: tl.constexpr):
    if FULL:
        value = tl.load(pointer + at)
    else:
        value = tl.load(pointer + at, mask=at < n, other=0.0)
    return value.to(ACC)


@triton.jit
def _store(pointer, at, value, n, FULL: tl.constexpr):
    if FULL:
        tl.store(pointer + at, value.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=at < n)


@triton.jit
def _sum(ks, at, n, W: tl.constexpr, FULL: tl.constexpr, ACC: tl.constexpr):
    total = _load(ks[0], at, n, FULL, ACC) * W[0]
    for i in tl.static_range(1, len(W)):
        total += _load(ks[i], at, n, FULL, ACC) * W[i]
    return total


@triton.jit
def _combine_block(y, out, h, ks, at, n, W: tl.constexpr, FULL: tl.constexpr, ACC: tl.constexpr):
    value = _load(y, at, n, FULL, ACC) + h * _sum(ks, at, n, W, FULL, ACC)
    _store(out, at, value, n, FULL)


@triton.jit
def combine_kernel(y, out, h, ks, n, W: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """out = y + h sum W k, one block a program."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    step = tl.load(h).to(ACC)
    if start + BLOCK <= n:
        _combine_block(y, out, step, ks, at, n, W, True, ACC)
    else:
        _combine_block(y, out, step, ks, at, n, W, False, ACC)


@triton.jit
def _finish_block(
    y0, y1, h, allowed, rtol, atol, ks, at, n,
    B: tl.constexpr, E: tl.constexpr, MAKE: tl.constexpr, WIDE: tl.constexpr,
    FULL: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    before = _load(y0, at, n, FULL, ACC)
    if MAKE:
        after = before + h * _sum(ks, at, n, B, FULL, ACC)
        _store(y1, at, after, n, FULL)
        # What is judged is what was stored: 16-bit states may overflow only there.
        after = after.to(y1.dtype.element_ty).to(ACC)
    else:
        after = _load(y1, at, n, FULL, ACC)
    if WIDE:
        relative = _load(rtol, at, n, FULL, ACC)
        absolute = _load(atol, at, n, FULL, ACC)
    else:
        relative = tl.load(allowed).to(ACC)
        absolute = tl.load(allowed + 1).to(ACC)
    scale = absolute + relative * tl.maximum(tl.abs(before), tl.abs(after))
    ratio = h * _sum(ks, at, n, E, FULL, ACC) / scale
    # An infinite state has an infinite allowance; 0 times it is NaN, and refused.
    ratio += after * 0.0
    return tl.where(at < n, ratio * ratio, 0.0)


@triton.jit
def finish_kernel(
    y0, y1, partial, h, allowed, rtol, atol, ks, n,
    B: tl.constexpr, E: tl.constexpr, MAKE: tl.constexpr, WIDE: tl.constexpr,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y1 = y0 + h sum B k where MAKE, and each block's sum of squares of scaled errors."""
    block = tl.program_id(0)
    start = block.to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    step = tl.load(h).to(ACC)
    if start + BLOCK <= n:
        squares = _finish_block(
            y0, y1, step, allowed, rtol, atol, ks, at, n, B, E, MAKE, WIDE, True, ACC
        )
        tl.store(partial + block, tl.sum(squares.to(tl.float64), 0))
    else:
        squares = _finish_block(
            y0, y1, step, allowed, rtol, atol, ks, at, n, B, E, MAKE, WIDE, False, ACC
        )
        tl.store(partial + block, tl.sum(squares.to(tl.float64), 0))
