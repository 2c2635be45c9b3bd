"""What the programs of a whole solve and of its backward pass share: the stages of a step.

A program solves BB samples. A state is a tuple of tiles `[BB, W]`, one a component: of a system of
scalar equations W is 1, of any other field there is one tile. Numbers of a sample are `[BB, 1]`.
Tables are compile-time constants: A are the rows of the stages after the first and last the new
state's, C those stages' nodes; the slope at the end follows them, then the stages that only the
continuous output needs, with rows X and nodes N. D are polynomials in theta, one for each slope.
FIELD evaluates a field, `what it is` being SPEC, and parameters `ps` are pointers.
"""

import triton
import triton.language as tl


@triton.jit
def any_of(mask):
    """Whether any entry is true, as a scalar."""
    return tl.max(mask.to(tl.int32)) > 0


@triton.jit
def number(x: tl.constexpr):
    """A float64 constant: beside a float64 value a bare one would be rounded to float32 first."""
    return tl.full([1, 1], x, tl.float64)


@triton.jit
def chosen(mask, yes, no):
    """`yes` in the rows of the mask, `no` elsewhere, tuple by tuple."""
    out = ()
    for c in tl.static_range(len(yes)):
        out = out + (tl.where(mask, yes[c], no[c]),)
    return out


@triton.jit
def combined(y, h, ks, A: tl.constexpr, AT: tl.constexpr):
    """y + h sum A[AT] k."""
    out = ()
    for c in tl.static_range(len(y)):
        total = tl.zeros_like(y[c])
        for i in tl.static_range(len(A[AT])):
            if A[AT][i] != 0.0:
                total += ks[i][c] * A[AT][i]
        out = out + (y[c] + h * total,)
    return out


@triton.jit
def stage_time(t, t1, C: tl.constexpr, AT: tl.constexpr):
    """The time of a stage; the end is t1 itself: t + (t1 - t) may round beyond it."""
    if C[AT] == 1.0:
        at = t1
    else:
        at = t + (t1 - t) * C[AT]
    return at


@triton.jit
def slopes(
    t, t1, y, first, ps, row,
    A: tl.constexpr, C: tl.constexpr, FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """The slopes of all stages of a step but the one at its end."""
    h = (t1 - t).to(y[0].dtype)
    ks = (first,)
    for i in tl.static_range(len(C)):
        at = stage_time(t, t1, C, i).to(y[0].dtype)
        ks = ks + (FIELD(at, combined(y, h, ks, A, i), ps, row, SPEC),)
    return ks


@triton.jit
def more_slopes(
    t, t1, y, ks, ps, row,
    X: tl.constexpr, N: tl.constexpr, FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """All slopes of a step, with those that only the continuous output needs."""
    h = (t1 - t).to(y[0].dtype)
    for i in tl.static_range(len(N)):
        at = stage_time(t, t1, N, i).to(y[0].dtype)
        ks = ks + (FIELD(at, combined(y, h, ks, X, i), ps, row, SPEC),)
    return ks


@triton.jit
def weight(theta, D: tl.constexpr, AT: tl.constexpr):
    """A slope's weight in the continuous output, by Horner's rule."""
    total = theta * 0.0 + D[AT][len(D[AT]) - 1]
    for j in tl.static_range(1, len(D[AT])):
        total = total * theta + D[AT][len(D[AT]) - 1 - j]
    return total * theta


@triton.jit
def read(pointer, at, inside, COMPONENTS: tl.constexpr):
    """A state from memory, zero outside."""
    out = ()
    for c in tl.static_range(COMPONENTS):
        out = out + (tl.load(pointer + at + c, mask=inside, other=0.0),)
    return out


@triton.jit
def write(pointer, at, inside, y):
    """A state to memory."""
    for c in tl.static_range(len(y)):
        tl.store(pointer + at + c, y[c], mask=inside)


@triton.jit
def place(rows, size, BB: tl.constexpr, W: tl.constexpr, COMPONENTS: tl.constexpr):
    """The rows of this program, where their states begin, and which of them and of these exist."""
    row = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)[:, None]
    column = tl.arange(0, W)[None, :]
    live = row < rows
    return row, row * size + column, live, live & (column < size // COMPONENTS)


@triton.jit
def time_at(times, row, stride, column, inside):
    """A time of each row, NaN where there is none."""
    return tl.load(times + row * stride + column, mask=inside, other=float("nan"))


@triton.jit
def span_of(times, row, live, stride, count):
    """The first time of each row, the last one before the padding, and the sign of time."""
    start = tl.load(times + row * stride, mask=live, other=0.0)
    end, column = start, 1
    while column < count:
        t = time_at(times, row, stride, column, live)
        end = tl.where(t == t, t, end)
        column += 1
    return start, end, tl.where(end >= start, number(1.0), number(-1.0))
