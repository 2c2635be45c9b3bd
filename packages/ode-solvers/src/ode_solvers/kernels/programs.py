"""The Triton programs of the fused kernel; `fused` starts them.

Coefficients are compile-time constants, so one source serves every table: a row is a polynomial in
theta for each slope, of degree 0 in a stage, so continuous output is the same sum. Step size,
theta and tolerances are float64 on their way in, because a Python float is float32 by default.
Blocks inside the state take a path without masks, so loads are 16 bytes wide for any size. Sums
are accumulated in float32, or float64, and norms in a fixed order: results repeat to the bit.

A program of `..._kernel` works on one block of a state with one step size; of `..._rows_kernel`,
with step sizes in device memory, on one block of one row, or where rows have at most C entries on
R C entries of any rows, or, for their norms, on R rows.
"""

import triton
import triton.language as tl

from ode_solvers.kernels.block_programs import (
    EDGE,
    TAIL,
    WHOLE,
    block_of,
    flat_rows,
    load,
    row_block,
    store,
    tile,
)


@triton.jit
def _weighted(x, theta, W: tl.constexpr, AT: tl.constexpr, ACC: tl.constexpr):
    if len(W[AT]) == 1:
        weighted = x * W[AT][0]
    else:
        weight = theta * 0.0 + W[AT][len(W[AT]) - 1]
        for j in tl.static_range(1, len(W[AT])):
            weight = weight * theta + W[AT][len(W[AT]) - 1 - j]
        weighted = x * weight.to(ACC)
    return weighted


@triton.jit
def _combine(
    y, out, h, theta, ks, at, inside,
    W: tl.constexpr, ADD: tl.constexpr, WAY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    total = _weighted(load(ks[0], at, inside, 0.0, WAY, ACC), theta, W, 0, ACC)
    for i in tl.static_range(1, len(W)):
        total += _weighted(load(ks[i], at, inside, 0.0, WAY, ACC), theta, W, i, ACC)
    value = h * total
    if ADD:
        value += load(y, at, inside, 0.0, WAY, ACC)
    store(out, at, value, inside, WAY)


@triton.jit
def _scatter(
    grad, outs, h, theta, at, inside, W: tl.constexpr, WAY: tl.constexpr, ACC: tl.constexpr
):
    scaled = h * load(grad, at, inside, 0.0, WAY, ACC)
    for i in tl.static_range(len(W)):
        store(outs[i], at, _weighted(scaled, theta, W, i, ACC), inside, WAY)


@triton.jit
def combine_kernel(
    y, out, h: tl.float64, theta: tl.float64, ks, n, W: tl.constexpr, ADD: tl.constexpr,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = y + h sum W(theta) k, without y unless ADD."""
    at, inside, full = block_of(n, BLOCK)
    step, place = tl.full([], h, tl.float64).to(ACC), tl.full([], theta, tl.float64)
    if full:
        _combine(y, out, step, place, ks, at, inside, W, ADD, WHOLE, ACC)
    else:
        _combine(y, out, step, place, ks, at, inside, W, ADD, TAIL, ACC)


@triton.jit
def combine_rows_kernel(
    y, out, h, theta, ks, rows, n, blocks, W: tl.constexpr, ADD: tl.constexpr,
    ACC: tl.constexpr, R: tl.constexpr, C: tl.constexpr, MANY: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """out = y + h sum W(theta) k with h and theta of each row."""
    if R == 1:
        row, at, inside, full, safe = row_block(rows, n, blocks, C, MANY, ALIGN)
        step, place = tl.load(h + row).to(ACC), tl.load(theta + row)
        if full:
            _combine(y, out, step, place, ks, at, inside, W, ADD, WHOLE, ACC)
        elif safe:
            _combine(y, out, step, place, ks, at, inside, W, ADD, EDGE, ACC)
        else:
            _combine(y, out, step, place, ks, at, inside, W, ADD, TAIL, ACC)
    else:
        row, at, inside, full = flat_rows(rows, n, R * C)
        step = tl.load(h + row, mask=inside, other=0.0).to(ACC)
        place = tl.load(theta + row, mask=inside, other=0.0)
        if full:
            _combine(y, out, step, place, ks, at, inside, W, ADD, WHOLE, ACC)
        else:
            _combine(y, out, step, place, ks, at, inside, W, ADD, TAIL, ACC)


@triton.jit
def scatter_kernel(
    grad, outs, h: tl.float64, theta: tl.float64, n,
    W: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """outs[i] = h W[i](theta) grad: the transpose of `combine_kernel`."""
    at, inside, full = block_of(n, BLOCK)
    step, place = tl.full([], h, tl.float64).to(ACC), tl.full([], theta, tl.float64)
    if full:
        _scatter(grad, outs, step, place, at, inside, W, WHOLE, ACC)
    else:
        _scatter(grad, outs, step, place, at, inside, W, TAIL, ACC)


@triton.jit
def scatter_rows_kernel(
    grad, outs, h, theta, rows, n, blocks,
    W: tl.constexpr, ACC: tl.constexpr, R: tl.constexpr, C: tl.constexpr, MANY: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """outs[i] = h W[i](theta) grad with h and theta of each row."""
    if R == 1:
        row, at, inside, full, safe = row_block(rows, n, blocks, C, MANY, ALIGN)
        step, place = tl.load(h + row).to(ACC), tl.load(theta + row)
        if full:
            _scatter(grad, outs, step, place, at, inside, W, WHOLE, ACC)
        elif safe:
            _scatter(grad, outs, step, place, at, inside, W, EDGE, ACC)
        else:
            _scatter(grad, outs, step, place, at, inside, W, TAIL, ACC)
    else:
        row, at, inside, full = flat_rows(rows, n, R * C)
        step = tl.load(h + row, mask=inside, other=0.0).to(ACC)
        place = tl.load(theta + row, mask=inside, other=0.0)
        if full:
            _scatter(grad, outs, step, place, at, inside, W, WHOLE, ACC)
        else:
            _scatter(grad, outs, step, place, at, inside, W, TAIL, ACC)


@triton.jit
def _pairs(x):
    # A complex entry is two reals side by side.
    FLAT: tl.constexpr = len(x.shape) == 1
    if FLAT:
        total = tl.sum(tl.reshape(x, [x.shape[0] // 2, 2]), 1)
    else:
        total = tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]), 2)
    return total


@triton.jit
def _scaled(error, before, after, relative, absolute, PAIRS: tl.constexpr):
    if PAIRS:
        most = tl.sqrt(tl.maximum(_pairs(before * before), _pairs(after * after)))
        ratio = tl.sqrt(_pairs(error * error)) / (absolute + relative * most)
        # An infinite state has an infinite allowance; 0 times it is NaN, and refused.
        ratio += _pairs(after * 0.0)
    else:
        ratio = error / (absolute + relative * tl.maximum(tl.abs(before), tl.abs(after)))
        ratio += after * 0.0
    return ratio * ratio


@triton.jit
def _finish(
    y0, y1, h, rtol, atol, relative, absolute, ks, at, inside,
    B: tl.constexpr, E: tl.constexpr, MAKE: tl.constexpr, WIDE: tl.constexpr,
    PAIRS: tl.constexpr, WAY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    before = load(y0, at, inside, 1.0, WAY, ACC)  # outside: 1 with an error of 0
    rise = tl.zeros_like(before)
    first = tl.zeros_like(before)
    second = tl.zeros_like(before)
    for i in tl.static_range(len(B)):
        k = load(ks[i], at, inside, 0.0, WAY, ACC)
        if B[i] != 0.0:
            rise += k * B[i]
        if E[0][i] != 0.0:
            first += k * E[0][i]
        if E[len(E) - 1][i] != 0.0:
            second += k * E[len(E) - 1][i]
    if MAKE:
        after = before + h * rise
        store(y1, at, after, inside, WAY)
        # What is judged is what was stored: 16-bit states may overflow only there.
        after = after.to(y1.dtype.element_ty).to(ACC)
    else:
        after = load(y1, at, inside, 1.0, WAY, ACC)
    if WIDE:
        entry, held = at, inside
        if PAIRS:
            entry, held = _pairs(at) // 4, _pairs(inside.to(tl.int32)) > 0
        relative_ = load(relative, entry, held, 1.0, WAY, ACC)
        absolute_ = load(absolute, entry, held, 1.0, WAY, ACC)
    else:
        relative_ = tl.full([], rtol, tl.float64).to(ACC)
        absolute_ = tl.full([], atol, tl.float64).to(ACC)
    squares = _scaled(h * first, before, after, relative_, absolute_, PAIRS)
    others = squares
    if len(E) == 2:
        others = _scaled(h * second, before, after, relative_, absolute_, PAIRS)
    return squares.to(tl.float64), others.to(tl.float64)


@triton.jit
def _norm(total, count):
    mean = total / count
    return tl.where(mean >= 0.0, tl.sqrt(mean), float("inf"))


@triton.jit
def finish_kernel(
    y0, y1, partial, h: tl.float64, rtol: tl.float64, atol: tl.float64, relative, absolute, ks,
    n, count: tl.float64,
    B: tl.constexpr, E: tl.constexpr, MAKE: tl.constexpr, WIDE: tl.constexpr,
    PAIRS: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y1 = y0 + h sum B k where MAKE; `partial`, `[E, blocks]`: sums of squares, or norms."""
    at, inside, full = block_of(n, BLOCK)
    step = tl.full([], h, tl.float64).to(ACC)
    if full:
        first, second = _finish(y0, y1, step, rtol, atol, relative, absolute, ks, at, inside,
                                B, E, MAKE, WIDE, PAIRS, WHOLE, ACC)  # fmt: skip
    else:
        first, second = _finish(y0, y1, step, rtol, atol, relative, absolute, ks, at, inside,
                                B, E, MAKE, WIDE, PAIRS, TAIL, ACC)  # fmt: skip
    one, other = tl.sum(first, 0), tl.sum(second, 0)
    place = partial + tl.program_id(0)
    tl.store(place, _norm(one, count) if LAST else one)
    if len(E) == 2:
        tl.store(place + tl.num_programs(0), _norm(other, count) if LAST else other)


@triton.jit
def finish_rows_kernel(
    y0, y1, partial, h, rtol: tl.float64, atol: tl.float64, relative, absolute, ks,
    rows, n, blocks, count: tl.float64,
    B: tl.constexpr, E: tl.constexpr, MAKE: tl.constexpr, WIDE: tl.constexpr,
    PAIRS: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, MANY: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """The same with h of each row, `partial` being `[E, rows, blocks]`."""
    if R == 1:
        row, at, inside, full, safe = row_block(rows, n, blocks, C, MANY, ALIGN)
        step = tl.load(h + row).to(ACC)
        if full:
            first, second = _finish(y0, y1, step, rtol, atol, relative, absolute, ks, at, inside,
                                    B, E, MAKE, WIDE, PAIRS, WHOLE, ACC)  # fmt: skip
        elif safe:
            first, second = _finish(y0, y1, step, rtol, atol, relative, absolute, ks, at, inside,
                                    B, E, MAKE, WIDE, PAIRS, EDGE, ACC)  # fmt: skip
        else:
            first, second = _finish(y0, y1, step, rtol, atol, relative, absolute, ks, at, inside,
                                    B, E, MAKE, WIDE, PAIRS, TAIL, ACC)  # fmt: skip
        one, other = tl.sum(first, 0), tl.sum(second, 0)
        place = partial + tl.program_id(0)
        tl.store(place, _norm(one, count) if LAST else one)
        if len(E) == 2:
            tl.store(place + rows * blocks, _norm(other, count) if LAST else other)
    else:
        row, at, inside = tile(rows, n, R, C)
        live = row < rows
        step = tl.load(h + row, mask=live, other=0.0).to(ACC)[:, None]
        first, second = _finish(y0, y1, step, rtol, atol, relative, absolute, ks, at, inside,
                                B, E, MAKE, WIDE, PAIRS, TAIL, ACC)  # fmt: skip
        tl.store(partial + row, _norm(tl.sum(first, 1), count), mask=live)
        if len(E) == 2:
            tl.store(partial + row + rows, _norm(tl.sum(second, 1), count), mask=live)


@triton.jit
def norm_kernel(partial, out, blocks, count: tl.float64, BLOCK: tl.constexpr):
    """Each row's norm from the sums of its blocks, in their order; infinite where it is NaN."""
    row, start = tl.program_id(0).to(tl.int64), blocks * 0
    total = tl.zeros([BLOCK], tl.float64)
    while start < blocks:
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partial + row * blocks + at, mask=at < blocks, other=0.0)
        start += BLOCK
    tl.store(out + row, _norm(tl.sum(total, 0), count))
