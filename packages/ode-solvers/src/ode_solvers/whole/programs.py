"""The Triton program of a whole solve; `kernel` starts it.

It does what the loop over per-sample steps does, in the same order: see
`ode_core.loops.sample_march`. Rows that have ended stand still, with steps of no size.
"""

import triton
import triton.language as tl

from ode_solvers.whole.control_programs import (
    allowances,
    end_of,
    error_of,
    finite,
    first_size,
    least_size,
    next_size,
)
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
def _logged(log, clock, row, rows, present, counts, status, t, step):
    calls, accepted, tried, outputs = counts
    found = (calls, accepted, tried, status, outputs)
    for i in tl.static_range(5):
        tl.store(log + row + rows * i, found[i].to(tl.int64), mask=present)
    begun = tried > 0
    tl.store(clock + row, tl.where(begun, t, float("nan")), mask=present)
    tl.store(clock + row + rows, tl.where(begun, step, float("nan")), mask=present)


@triton.jit
def _lost(ys, at, inside, left, next_, shape, y):
    """Store NaN for the outputs that were not reached."""
    rows, size, count, _ = shape
    left = left & (next_ < count)
    nothing = ()
    for c in tl.static_range(len(y)):
        nothing = nothing + (tl.full(y[c].shape, float("nan"), y[c].dtype),)
    while any_of(left):
        write(ys, at + next_.to(tl.int64) * rows * size, inside & left, nothing)
        next_ += left.to(tl.int32)
        left = left & (next_ < count)


@triton.jit
def _kept(states, spans, row, at, inside, keep, index, shape, y, t, t1):
    """Record the start of an accepted step."""
    write(states, at + index * shape[0] * shape[1], inside & keep, y)
    spot = spans + (index * shape[0] + row) * 2
    tl.store(spot, t, mask=keep)
    tl.store(spot + 1, t1, mask=keep)


@triton.jit
def _size_at_first(
    start, end, sign, y, first, allowed, inside, entries, ps, row, present, dt, sizes,
    SIZED: tl.constexpr, ORDER: tl.constexpr, FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    if SIZED == 0:
        step = first_size(start, end, sign, y, first, allowed, inside, entries, ps, row, ORDER,
                          FIELD, SPEC)  # fmt: skip
    elif SIZED == 1:
        step = tl.zeros_like(start) + dt
    else:
        step = tl.load(sizes + row, mask=present, other=1.0)
        # A sample whose step size is not known has finished before its first step.
        step = tl.where(step == step, step, number(1.0))
    return step


@triton.jit
def _attempted(
    t, t1, y, first, ps, row, A: tl.constexpr, C: tl.constexpr, STARTS: tl.constexpr,
    FIELD: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """The slopes of a step, the new state, and the slope there or what stands for it."""
    k = first
    if STARTS == 0:
        k = FIELD(t.to(y[0].dtype), y, ps, row, SPEC)
    ks = slopes(t, t1, y, k, ps, row, A, C, FIELD, SPEC)
    y1 = combined(y, (t1 - t).to(y[0].dtype), ks, A, len(C))
    last = first
    if STARTS:
        last = FIELD(t1.to(y[0].dtype), y1, ps, row, SPEC)
        ks = ks + (last,)
    return ks, y1, last


@triton.jit
def _next_end(
    t, step, start, end, sign, live, CHOOSES: tl.constexpr, LIMITS: tl.constexpr
):  # fmt: skip
    """The size of the next step, where it ends, and whether that is the end of the solve."""
    if CHOOSES:
        if LIMITS[3] > 0.0:
            step = tl.where(live, tl.maximum(step, number(LIMITS[3])), step)
        step = tl.where(live, tl.minimum(step, number(LIMITS[4])), step)
        # A stop a little beyond is reached at once, so that no sliver of a step is left.
        slack = tl.minimum(step * number(0.1), number(LIMITS[4]) - step)
        slack = tl.maximum(slack, step * number(1e-9))
        t1, cut = end_of(t + sign * step, slack, end, sign)
    else:
        # i * dt keeps rounding out of the nodes.
        passed = tl.floor((t - start) * sign / step + number(1e-9))
        t1, cut = end_of(start + sign * step * (passed + 1.0), step * number(1e-9), end, sign)
    return step, tl.where(live, t1, t), cut


@triton.jit
def _ended(
    live, accept, cut, e, t, step, sign, y1, inside, tried, most_steps, status,
    CHOOSES: tl.constexpr, LIMITS: tl.constexpr,
):  # fmt: skip
    """Which rows go on, and how those ended that do not."""
    if CHOOSES:
        live = live & ((accept & cut) == 0)
        blown = e == float("inf")
        failed = live & ((step < least_size(t, sign)) | (blown & (step < number(LIMITS[3]))))
    else:
        # Also in the last step: what is not finite is no result.
        blown = finite(y1, inside) == 0
        failed = live & blown
    status = tl.where(failed, tl.where(blown, _NOT_FINITE, _TOO_SMALL), status)
    live = live & (failed == 0)
    if CHOOSES == 0:
        live = live & (cut == 0)
    tired = live & (tried >= most_steps)
    return live & (tired == 0), tl.where(tired, _MAX_STEPS, status)


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
    row, at, present, inside = place(rows, size, BB, W, COMPONENTS)
    shape = (rows, size, count, stride)
    start, end, sign = span_of(times, row, present, stride, count)
    y = read(y0, at, inside, COMPONENTS)
    t, live = start, present & (start != end)
    first = y
    if STARTS:
        first = FIELD(t.to(y[0].dtype), y, ps, row, SPEC)
    allowed = allowances(wide, row, present, inside, rtol, atol, WIDE, W, y)
    step = _size_at_first(start, end, sign, y, first, allowed, inside, entries, ps, row, present,
                          dt, sizes, SIZED, ORDER, FIELD, SPEC)  # fmt: skip
    calls = live.to(tl.int32) * (STARTS + (SIZED == 0))
    none = tl.zeros([BB, 1], tl.int32)
    accepted, tried, status, next_ = none, none, none, none
    zero = tl.zeros([BB, 1], tl.float64)
    memory = (zero + 1.0, zero + 1.0, zero)
    # What is due at the start is the state given.
    soon = time_at(times, row, stride, next_, present)
    next_ = _emitted(t, t, y, y, (), soon, present & (soon == start), next_, times, ys, at, row,
                     inside, sign, shape, D, False)  # fmt: skip
    while any_of(live):
        step, t1, cut = _next_end(t, step, start, end, sign, live, CHOOSES, LIMITS)
        ks, y1, last = _attempted(t, t1, y, first, ps, row, A, C, STARTS, FIELD, SPEC)
        tried += live.to(tl.int32)
        calls += live.to(tl.int32) * (len(C) + 1)
        accept, e = live, step
        if CHOOSES:
            e = error_of(y, y1, (t1 - t).to(y[0].dtype), ks, allowed, inside, entries, E)
            accept, e, sized, memory = next_size(e, step, t, t1, cut, live, memory, EXPONENTS,
                                                 LIMITS)  # fmt: skip
            step = tl.where(live, sized, step)
        if RECORD:
            keep = accept & (accepted < capacity)
            _kept(states, spans, row, at, inside, keep, accepted.to(tl.int64), shape, y, t, t1)
        next_, calls = _outputs(t, t1, y, y1, ks, accept, next_, calls, times, ys, at, row, inside,
                                sign, shape, ps, D, X, N, STARTS, FIELD, SPEC)  # fmt: skip
        accepted += accept.to(tl.int32)
        t = tl.where(accept, t1, t)
        live, status = _ended(live, accept, cut, e, t, step, sign, y1, inside, tried, most_steps,
                              status, CHOOSES, LIMITS)  # fmt: skip
        y, first = chosen(accept, y1, y), chosen(accept, last, first)
    _logged(log, clock, row, rows, present, (calls, accepted, tried, next_), status, t, step)
    _lost(ys, at, inside, present, next_, shape, y)
