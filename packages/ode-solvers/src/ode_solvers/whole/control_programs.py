"""Step-size control in the programs of a whole solve, as `ode_core` does it on tensors."""

import triton
import triton.language as tl

from ode_solvers.kernels.pace_programs import _factor as factor_of
from ode_solvers.whole.step_programs import combined, number


@triton.jit
def allowances(wide, row, live, inside, rtol, atol, WIDE: tl.constexpr, W: tl.constexpr, like):
    """Relative and absolute tolerance, one of each for every component or for all."""
    relative, absolute = (), ()
    for c in tl.static_range(len(like)):
        if WIDE:
            column = tl.arange(0, W)[None, :] + c
            r = tl.load(wide[0] + row * wide[2] + column * wide[3], mask=inside, other=1.0)
            a = tl.load(wide[1] + row * wide[4] + column * wide[5], mask=inside, other=1.0)
        else:
            r, a = tl.full([1, 1], rtol, tl.float64), tl.full([1, 1], atol, tl.float64)
        relative = relative + (r.to(like[c].dtype),)
        absolute = absolute + (a.to(like[c].dtype),)
    return relative, absolute


@triton.jit
def norm(error, y, y1, allowed, inside, size):
    """The root mean square of scaled errors, infinite where they or the state are not finite."""
    total = tl.zeros([y[0].shape[0], 1], tl.float64)
    for c in tl.static_range(len(y)):
        most = tl.maximum(tl.abs(y[c]), tl.abs(y1[c]))
        ratio = error[c] / (allowed[1][c] + allowed[0][c] * most) + y1[c] * 0.0
        ratio = tl.where(inside, ratio, 0.0).to(tl.float64)
        total += tl.sum(ratio * ratio, 1, keep_dims=True)
    mean = total / size
    return tl.where(mean >= 0.0, tl.sqrt(mean), float("inf"))


@triton.jit
def finite(y, inside):
    """Whether all of a state is."""
    total = tl.zeros([y[0].shape[0], 1], y[0].dtype)
    for c in tl.static_range(len(y)):
        total += tl.sum(tl.where(inside, y[c] * 0.0, 0.0), 1, keep_dims=True)
    return total == 0.0


@triton.jit
def error_of(y, y1, h, ks, allowed, inside, size, E: tl.constexpr):
    """The scaled norm of the table's estimate; a second one damps the first."""
    none = ()
    for c in tl.static_range(len(y)):
        none = none + (tl.zeros_like(y[c]),)
    e = norm(combined(none, h, ks, E, 0), y, y1, allowed, inside, size)
    if len(E) == 2:
        other = norm(combined(none, h, ks, E, 1), y, y1, allowed, inside, size)
        ratio = e * e / tl.sqrt(e * e + other * other * number(0.01))
        exact = tl.where(e == 0.0, other, float("inf"))
        e = tl.where(ratio < float("inf"), ratio, exact)
    return e


@triton.jit
def first_size(
    start, end, sign, y, slope, allowed, inside, size, ps, row,
    ORDER: tl.constexpr, FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """The size of the first step, as `ode_core.control.first_steps` chooses it."""
    length = tl.abs(end - start)
    d0 = norm(y, y, y, allowed, inside, size)
    d1 = norm(slope, y, y, allowed, inside, size)
    small = (d0 < number(1e-5)) | (d1 < number(1e-5))
    h0 = tl.where(small, number(1e-6), number(0.01) * d0 / d1)
    usable = (h0 > 0.0) & (h0 < float("inf"))
    h0 = tl.minimum(tl.where(usable, h0, length * number(1e-6)), length)
    ahead = tl.where(h0 == length, end, start + sign * h0)
    h = (sign * h0).to(y[0].dtype)
    euler, change = (), ()
    for c in tl.static_range(len(y)):
        euler = euler + (y[c] + h * slope[c],)
    there = FIELD(ahead.to(y[0].dtype), euler, ps, row, SPEC)
    for c in tl.static_range(len(y)):
        change = change + (there[c] - slope[c],)
    largest = tl.maximum(d1, norm(change, y, y, allowed, inside, size) / h0)
    h1 = tl.exp(tl.log(number(0.01) / largest) * (1.0 / ORDER))
    h1 = tl.where(largest <= number(1e-15), tl.maximum(h0 * number(1e-3), number(1e-6)), h1)
    h1 = tl.where(largest < float("inf"), tl.minimum(h0 * 100.0, h1), h0 * number(1e-3))
    return tl.where(usable, tl.minimum(h1, length), h0)


@triton.jit
def least_size(t, sign):
    """Ten times the distance to the next number after t."""
    # Neighbouring numbers have neighbouring bits; only from zero both ways lead away.
    away = (t > 0.0) == (sign > 0.0)
    bits = t.to(tl.int64, bitcast=True)
    beyond = tl.where(away | (t == 0.0), bits + 1, bits - 1).to(tl.float64, bitcast=True)
    return tl.abs(tl.abs(beyond) - tl.abs(t)) * 10.0


@triton.jit
def next_size(e, size, t, t1, cut, live, memory, EXPONENTS: tl.constexpr, LIMITS: tl.constexpr):
    """Judge a step: whether it is accepted, its error, the next size, and the memory after it."""
    least = number(LIMITS[3])
    before, earlier, rejected = memory
    if LIMITS[3] > 0.0:
        # The least step is taken whatever its error is, unless that is none at all.
        e = tl.where((size <= least) & (e < float("inf")), tl.minimum(e, number(1.0)), e)
    good = e <= 1.0
    factor = factor_of(e, before, earlier, rejected, good, EXPONENTS, LIMITS)
    kept = tl.where(good, tl.maximum(e, number(1e-4)), before)
    kept_before = tl.where(good, before, earlier)
    accept = good & live
    # A stretch is no size that a controller has asked for.
    sized = tl.where(cut, tl.minimum(size, tl.abs(t1 - t)), size) * factor
    # A step cut short at a stop says little about the size that the next one can have.
    sized = tl.where(accept & cut & (factor >= 1.0), tl.maximum(size, sized), sized)
    return accept, e, sized, (kept, kept_before, (good == 0).to(tl.float64))


@triton.jit
def end_of(t1, slack, end, sign):
    """Where a step ends, at the stop if that is so near, and whether there."""
    cut = (end - t1) * sign < slack
    return tl.where(cut, end, t1), cut
