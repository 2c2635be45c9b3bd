"""The Triton program of a whole solve; `kernel` starts it.

It does what the loop over per-sample steps does, in the same order: see
`ode_core.loops.sample_march`. Rows that have ended stand still, with steps of no size.
"""

import triton
import triton.language as tl

from ode_solvers.kernels.pace_programs import _factor as factor_of
from ode_solvers.whole.step_programs import (
    any_of,
    chosen,
    combined,
    more_slopes,
    number,
    place,
    read,
    slopes,
    span_of,
    time_at,
    weight,
    write,
)

_MAX_STEPS, _TOO_SMALL, _NOT_FINITE = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _allowed(wide, row, live, inside, rtol, atol, WIDE: tl.constexpr, W: tl.constexpr, like):
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
def _norm(error, y, y1, allowed, inside, size):
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
def _finite(y, inside):
    total = tl.zeros([y[0].shape[0], 1], y[0].dtype)
    for c in tl.static_range(len(y)):
        total += tl.sum(tl.where(inside, y[c] * 0.0, 0.0), 1, keep_dims=True)
    return total == 0.0


@triton.jit
def _error(y, y1, h, ks, allowed, inside, size, E: tl.constexpr):
    """The scaled norm of the table's estimate; a second one damps the first."""
    none = ()
    for c in tl.static_range(len(y)):
        none = none + (tl.zeros_like(y[c]),)
    e = _norm(combined(none, h, ks, E, 0), y, y1, allowed, inside, size)
    if len(E) == 2:
        other = _norm(combined(none, h, ks, E, 1), y, y1, allowed, inside, size)
        ratio = e * e / tl.sqrt(e * e + other * other * number(0.01))
        exact = tl.where(e == 0.0, other, float("inf"))
        e = tl.where(ratio < float("inf"), ratio, exact)
    return e


@triton.jit
def _first_size(
    start, end, sign, y, slope, allowed, inside, size, ps, row,
    ORDER: tl.constexpr, FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """The size of the first step, as `ode_core.control.first_steps` chooses it."""
    length = tl.abs(end - start)
    d0 = _norm(y, y, y, allowed, inside, size)
    d1 = _norm(slope, y, y, allowed, inside, size)
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
    largest = tl.maximum(d1, _norm(change, y, y, allowed, inside, size) / h0)
    h1 = tl.exp(tl.log(number(0.01) / largest) * (1.0 / ORDER))
    h1 = tl.where(largest <= number(1e-15), tl.maximum(h0 * number(1e-3), number(1e-6)), h1)
    h1 = tl.where(largest < float("inf"), tl.minimum(h0 * 100.0, h1), h0 * number(1e-3))
    return tl.where(usable, tl.minimum(h1, length), h0)


@triton.jit
def _least_tick(t, sign):
    """Ten times the distance to the next number after t."""
    # Neighbouring numbers have neighbouring bits; only from zero both ways lead away.
    away = (t > 0.0) == (sign > 0.0)
    bits = t.to(tl.int64, bitcast=True)
    beyond = tl.where(away | (t == 0.0), bits + 1, bits - 1).to(tl.float64, bitcast=True)
    return tl.abs(tl.abs(beyond) - tl.abs(t)) * 10.0


@triton.jit
def _emitted(
    t, t1, y, y1, ks, soon, due, next_, times, ys, at, row, inside, sign, shape,
    D: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Store the outputs that lie in the step, one of each row in turn; the next one's number."""
    rows, size, count, stride = shape
    while any_of(due):
        place_ = at + next_.to(tl.int64) * rows * size
        out = y1
        if INNER:
            theta = (soon - t) / (t1 - t)
            h = (t1 - t).to(y[0].dtype)
            value = ()
            for c in tl.static_range(len(y)):
                total = tl.zeros_like(y[c])
                for i in tl.static_range(len(D)):
                    if len(D[i]) > 0:
                        total += ks[i][c] * weight(theta, D, i).to(y[0].dtype)
                value = value + (y[c] + h * total,)
            # The end of a step is the step's own, to the bit.
            out = chosen(theta < 1.0, value, y1)
        write(ys, place_, inside & due, out)
        next_ += due.to(tl.int32)
        soon = time_at(times, row, stride, next_, due & (next_ < count))
        due = due & (soon * sign <= t1 * sign)
    return next_


@triton.jit
def _outputs(
    t, t1, y, y1, ks, accept, next_, calls, times, ys, at, row, inside, sign, shape, ps,
    D: tl.constexpr, X: tl.constexpr, N: tl.constexpr, ENDS: tl.constexpr,
    FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """Store what lies in the step; the number of the next output, and of calls."""
    soon = time_at(times, row, shape[3], next_, accept & (next_ < shape[2]))
    due = soon * sign <= t1 * sign
    inner = due & ((soon - t) / (t1 - t) < 1.0)
    if any_of(inner):
        if ENDS:
            whole = ks
        else:
            whole = ks + (FIELD(t1.to(y[0].dtype), y1, ps, row, SPEC),)
        whole = more_slopes(t, t1, y, whole, ps, row, X, N, FIELD, SPEC)
        next_ = _emitted(t, t1, y, y1, whole, soon, due, next_, times, ys, at, row, inside, sign,
                         shape, D, True)  # fmt: skip
        if ENDS:
            calls += inner.to(tl.int32) * len(N)
        else:
            calls += inner.to(tl.int32) * (len(N) + 1)
    else:
        next_ = _emitted(t, t1, y, y1, ks, soon, due, next_, times, ys, at, row, inside, sign,
                         shape, D, False)  # fmt: skip
    return next_, calls


@triton.jit
def _next_size(e, size, t, t1, cut, live, memory, EXPONENTS: tl.constexpr, LIMITS: tl.constexpr):
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
    sized = tl.where(cut, tl.abs(t1 - t), size) * factor
    # A step cut short at a stop says little about the size that the next one can have.
    sized = tl.where(accept & cut & (factor >= 1.0), tl.maximum(size, sized), sized)
    return accept, e, sized, (kept, kept_before, (good == 0).to(tl.float64))


@triton.jit
def _end(t, t1, size, end, sign):
    """Where a step ends, not beyond the stop, and whether there."""
    # The slack keeps a sliver of a step off the end.
    cut = (end - t1) * sign < size * number(1e-9)
    return tl.where(cut, end, t1), cut


@triton.jit
def solve_kernel(
    y0, times, rtol: tl.float64, atol: tl.float64, dt: tl.float64, sizes, wide, ps,
    ys, log, clock, states, spans, rows, size, count, stride, capacity, most_steps,
    entries: tl.float64,
    A: tl.constexpr, C: tl.constexpr, E: tl.constexpr, D: tl.constexpr, X: tl.constexpr,
    N: tl.constexpr, EXPONENTS: tl.constexpr, LIMITS: tl.constexpr, ORDER: tl.constexpr,
    STARTS: tl.constexpr, CHOOSES: tl.constexpr, SIZED: tl.constexpr, WIDE: tl.constexpr,
    RECORD: tl.constexpr, FIELD: tl.constexpr, SPEC: tl.constexpr, COMPONENTS: tl.constexpr,
    W: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """Solve BB samples to their ends.

    `ys` is `[T, B, size]`; `log` is `[5, B]`: calls, accepted and attempted steps, status, outputs;
    `clock` is `[2, B]`: time and next step size. Where RECORD the starts of up to `capacity`
    accepted steps go to `states`, `[capacity, B, size]`, their ends to `spans`,
    `[capacity, B, 2]`. STARTS: the slope at the end of a step is that at the start of the next.
    CHOOSES: the controller chooses sizes. SIZED: 0 for no first size, 1 for `dt`, 2 for `sizes`.
    """
    row, at, live, inside = place(rows, size, BB, W, COMPONENTS)
    present, shape = live, (rows, size, count, stride)
    start, end, sign = span_of(times, row, live, stride, count)
    y = read(y0, at, inside, COMPONENTS)
    t, live = start, live & (start != end)
    first = y
    if STARTS:
        first = FIELD(t.to(y[0].dtype), y, ps, row, SPEC)
    allowed = _allowed(wide, row, present, inside, rtol, atol, WIDE, W, y)
    calls = live.to(tl.int32) * STARTS
    if SIZED == 0:
        step = _first_size(start, end, sign, y, first, allowed, inside, entries, ps,
                           row, ORDER, FIELD, SPEC)  # fmt: skip
        calls += live.to(tl.int32)
    elif SIZED == 1:
        step = tl.zeros([BB, 1], tl.float64) + dt
    else:
        step = tl.load(sizes + row, mask=present, other=1.0)
        # A sample whose step size is not known has finished before its first step.
        step = tl.where(step == step, step, number(1.0))
    none = tl.zeros([BB, 1], tl.int32)
    accepted, tried, status, next_ = none, none, none, none
    memory = (tl.zeros([BB, 1], tl.float64) + 1.0, tl.zeros([BB, 1], tl.float64) + 1.0,
              tl.zeros([BB, 1], tl.float64))  # fmt: skip
    # What is due at the start is the state given.
    soon = time_at(times, row, stride, next_, present)
    next_ = _emitted(t, t, y, y, (), soon, present & (soon == start), next_, times, ys, at, row,
                     inside, sign, shape, D, False)  # fmt: skip
    while any_of(live):
        if CHOOSES:
            if LIMITS[3] > 0.0:
                step = tl.where(live, tl.maximum(step, number(LIMITS[3])), step)
            step = tl.where(live, tl.minimum(step, number(LIMITS[4])), step)
            t1, cut = _end(t, t + sign * step, step, end, sign)
        else:
            # i * dt keeps rounding out of the nodes.
            passed = tl.floor((t - start) * sign / step + number(1e-9))
            t1, cut = _end(t, start + sign * step * (passed + 1.0), step, end, sign)
        t1 = tl.where(live, t1, t)
        if STARTS:
            ks = slopes(t, t1, y, first, ps, row, A, C, FIELD, SPEC)
        else:
            k = FIELD(t.to(y[0].dtype), y, ps, row, SPEC)
            ks = slopes(t, t1, y, k, ps, row, A, C, FIELD, SPEC)
        h = (t1 - t).to(y[0].dtype)
        y1 = combined(y, h, ks, A, len(C))
        tried += live.to(tl.int32)
        calls += live.to(tl.int32) * (len(C) + 1)
        last = first
        if STARTS:
            last = FIELD(t1.to(y[0].dtype), y1, ps, row, SPEC)
            ks = ks + (last,)
        if CHOOSES:
            e = _error(y, y1, h, ks, allowed, inside, entries, E)
            accept, e, sized, memory = _next_size(e, step, t, t1, cut, live, memory, EXPONENTS,
                                                  LIMITS)  # fmt: skip
            step = tl.where(live, sized, step)
        else:
            accept, e = live, step * 0.0
        if RECORD:
            keep = accept & (accepted < capacity)
            index = accepted.to(tl.int64)
            write(states, at + index * rows * size, inside & keep, y)
            spot = spans + (index * rows + row) * 2
            tl.store(spot, t, mask=keep)
            tl.store(spot + 1, t1, mask=keep)
        next_, calls = _outputs(t, t1, y, y1, ks, accept, next_, calls, times, ys, at, row, inside,
                                sign, shape, ps, D, X, N, STARTS, FIELD, SPEC)  # fmt: skip
        accepted += accept.to(tl.int32)
        t = tl.where(accept, t1, t)
        if CHOOSES:
            live = live & ((accept & cut) == 0)
            blown = e == float("inf")
            small = step < _least_tick(t, sign)
            small = live & (small | (blown & (step < number(LIMITS[3]))))
        else:
            blown = _finite(y1, inside) == 0
            small = live & blown
        status = tl.where(small, tl.where(blown, _NOT_FINITE, _TOO_SMALL), status)
        live = live & (small == 0)
        if CHOOSES == 0:
            live = live & (cut == 0)
        tired = live & (tried >= most_steps)
        status = tl.where(tired, _MAX_STEPS, status)
        live = live & (tired == 0)
        y = chosen(accept, y1, y)
        first = chosen(accept, last, first)
    _logged(log, clock, row, rows, present, calls, accepted, tried, status, next_, t, step)
    while any_of(present & (next_ < count)):
        left = present & (next_ < count)
        lost = ()
        for c in tl.static_range(COMPONENTS):
            lost = lost + (tl.full([BB, W], float("nan"), y[0].dtype),)
        write(ys, at + next_.to(tl.int64) * rows * size, inside & left, lost)
        next_ += left.to(tl.int32)


@triton.jit
def _logged(log, clock, row, rows, present, calls, accepted, tried, status, next_, t, step):
    found = (calls, accepted, tried, status, next_)
    for i in tl.static_range(5):
        tl.store(log + row + rows * i, found[i].to(tl.int64), mask=present)
    begun = tried > 0
    tl.store(clock + row, tl.where(begun, t, float("nan")), mask=present)
    tl.store(clock + row + rows, tl.where(begun, step, float("nan")), mask=present)
