"""Reading and writing blocks of a state in the Triton programs of the fused kernel.

A block is read and written in one of three ways, WAY: `WHOLE` where it lies inside of what it works
on, 16 bytes at a time; `EDGE` where it only lies inside of the tensors, read as widely, and what
belongs to other rows put out of the way; `TAIL` entry by entry.
"""

import triton
import triton.language as tl

TAIL, WHOLE, EDGE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def load(pointer, at, inside, other, WAY: tl.constexpr, ACC: tl.constexpr):
    """A block in the dtype that sums are made in, `other` outside."""
    if WAY == TAIL:
        value = tl.load(pointer + at, mask=inside, other=other).to(ACC)
    else:
        value = tl.load(pointer + at).to(ACC)
        if WAY == EDGE:
            value = tl.where(inside, value, tl.full([], other, ACC))
    return value


@triton.jit
def store(pointer, at, value, inside, WAY: tl.constexpr):
    """Write a block's entries inside."""
    if WAY == WHOLE:
        tl.store(pointer + at, value.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def block_of(n, BLOCK: tl.constexpr):
    """Where a flat block lies, which entries exist, and whether all do."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    return at, at < n, start + BLOCK <= n


@triton.jit
def row_block(rows, n, blocks, C: tl.constexpr, MANY: tl.constexpr, ALIGN: tl.constexpr):
    """The row of a block, where it lies, which entries are the row's, and the way to read it.

    Blocks begin at multiples of ALIGN entries, before the row where that begins between two.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // blocks
    begin, first = row * 0, row * 0
    if MANY:
        begin = row * n
        first = begin // ALIGN * ALIGN
    start = first + (program - row * blocks) * C
    at = start + tl.arange(0, C)
    inside = (at >= begin) & (at < begin + n)
    whole = (start >= begin) & (start + C <= begin + n)
    return row, at, inside, whole, start + C <= n * rows


@triton.jit
def flat_rows(rows, n, BLOCK: tl.constexpr):
    """The row of each entry of a flat block, where it lies, which entries exist, whether all do."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    first = start // n
    # In 32 bits: a division of 64 takes several times as long.
    row = first + ((start - first * n).to(tl.int32) + tl.arange(0, BLOCK)) // n
    at, count = start + tl.arange(0, BLOCK), (start * 0 + rows) * n
    return row, at, at < count, start + BLOCK <= count


@triton.jit
def tile(rows, n, R: tl.constexpr, C: tl.constexpr):
    """Rows and places of R rows of at most C entries, and which of them exist."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    column = tl.arange(0, C)
    at = row[:, None] * n + column[None, :]
    return row, at, (row < rows)[:, None] & (column < n)[None, :]
