"""The Triton program of a whole solve's backward pass: the recorded steps, taken back one by one.

Each step is made again from its start, and its transpose applied: with slopes k_i, their gradients
l_i = dt (b_i g + sum_j a_ji v_j), v_j = (df/dy)^T l_j, and g + sum v_j for the start.

Source: Hager, Runge-Kutta methods in optimal control and the transformed adjoint system,
Numerische Mathematik 87 (2000), section 2.
"""

import triton
import triton.language as tl

from ode_solvers.whole.step_programs import (
    any_of,
    chosen,
    combined,
    more_slopes,
    place,
    read,
    slopes,
    stage_time,
    time_at,
    weight,
    write,
)


@triton.jit
def _zeros(y):
    out = ()
    for c in tl.static_range(len(y)):
        out = out + (tl.zeros_like(y[c]),)
    return out


@triton.jit
def _plus(a, b):
    out = ()
    for c in tl.static_range(len(a)):
        out = out + (a[c] + b[c],)
    return out


@triton.jit
def _scattered(ls, h, v, A: tl.constexpr, AT: tl.constexpr):
    """Add h A[AT] v to the gradients of the slopes."""
    out = ()
    for i in tl.static_range(len(ls)):
        part = ls[i]
        if i < len(A[AT]):
            if A[AT][i] != 0.0:
                part = ()
                for c in tl.static_range(len(v)):
                    part = part + (ls[i][c] + h * v[c] * A[AT][i],)
        out = out + (part,)
    return out


@triton.jit
def _taken(
    g, back, ls, t, t1, due, column, grad, times, at, row, inside, sign, stride, flat,
    D: tl.constexpr,
):  # fmt: skip
    """Add the gradients of the outputs in a step, one of each row in turn.

    Those at its end go to `g`, those within to its start, `back`, and to its slopes, `ls`; a row's
    number of these comes back, too.
    """
    h = (t1 - t).to(g[0].dtype)
    within = due.to(tl.int32) * 0
    while any_of(due):
        theta = (time_at(times, row, stride, column, due) - t) / (t1 - t)
        inner = due & (theta < 1.0)
        found = read(grad, at + column.to(tl.int64) * flat, inside & due, len(g))
        g = _plus(g, chosen(due & (inner == 0), found, _zeros(g)))
        found = chosen(inner, found, _zeros(g))
        back = _plus(back, found)
        within += inner.to(tl.int32)
        more = ()
        for i in tl.static_range(len(ls)):
            part = ls[i]
            if i < len(D):
                if len(D[i]) > 0:
                    share = tl.where(inner, weight(theta, D, i), 0.0).to(g[0].dtype) * h
                    part = ()
                    for c in tl.static_range(len(g)):
                        part = part + (ls[i][c] + share * found[c],)
            more = more + (part,)
        ls = more
        column -= due.to(tl.int32)
        before = time_at(times, row, stride, column, due & (column >= 0))
        due = due & (before * sign > t * sign)
    return g, back, ls, column, within


@triton.jit
def _pulled_outputs(
    g, back, ls, sums, t, t1, y, ks, live, ps, row,
    A: tl.constexpr, X: tl.constexpr, N: tl.constexpr, PULL: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """Pull back through the slopes that only outputs within the step needed."""
    h = (t1 - t).to(y[0].dtype)
    LAST: tl.constexpr = len(ls) - len(N) - 1
    for j in tl.static_range(len(N) - 1, -1, -1):
        state = combined(y, h, ks, X, j)
        at = stage_time(t, t1, N, j).to(y[0].dtype)
        v, sums = PULL(at, state, ls[LAST + 1 + j], ps, row, live, sums, SPEC)
        back = _plus(back, v)
        ls = _scattered(ls, h, v, X, j)
    end = combined(y, h, ks, A, len(A) - 1)
    v, sums = PULL(t1.to(y[0].dtype), end, ls[LAST], ps, row, live, sums, SPEC)
    return _plus(g, v), back, ls, sums


@triton.jit
def pull_kernel(
    grad, times, ps, log, states, spans, out, grads, rows, size, stride,
    A: tl.constexpr, C: tl.constexpr, D: tl.constexpr, X: tl.constexpr, N: tl.constexpr,
    FIELD: tl.constexpr, PULL: tl.constexpr, SUMS: tl.constexpr, STORE: tl.constexpr,
    SPEC: tl.constexpr, COMPONENTS: tl.constexpr, W: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """Gradients of the starts, `out`, and sums of those of the parameters, `grads`.

    `grad` is `[T, B, size]`; `log`, `states` and `spans` are those of `solve_kernel`.
    """
    row, at, present, inside = place(rows, size, BB, W, COMPONENTS)
    flat = tl.full([1, 1], 1, tl.int64) * rows * size
    left = tl.load(log + row + rows, mask=present, other=0).to(tl.int32)
    column = tl.load(log + row + rows * 4, mask=present, other=0).to(tl.int32) - 1
    g = _zeros(read(grad, at, inside, COMPONENTS))
    sums = SUMS(g, SPEC)
    while any_of(left > 0):
        live = left > 0
        index = tl.maximum(left - 1, 0).to(tl.int64)
        y = read(states, at + index * flat, inside & live, COMPONENTS)
        spot = spans + (index * rows + row) * 2
        t = tl.load(spot, mask=live, other=0.0)
        t1 = tl.load(spot + 1, mask=live, other=0.0)
        h = (t1 - t).to(y[0].dtype)
        first = FIELD(t.to(y[0].dtype), y, ps, row, SPEC)
        ks = slopes(t, t1, y, first, ps, row, A, C, FIELD, SPEC)
        back, ls = _zeros(y), ()
        for _ in tl.static_range(len(C) + 2 + len(N)):
            ls = ls + (_zeros(y),)
        sign = tl.where(t1 >= t, 1.0, -1.0).to(tl.float64)
        soon = time_at(times, row, stride, column, live & (column >= 0))
        due = soon * sign > t * sign
        g, back, ls, column, within = _taken(g, back, ls, t, t1, due, column, grad, times, at,
                                             row, inside, sign, stride, flat, D)  # fmt: skip
        if any_of(within > 0):
            whole = ks
            if len(N) > 0:
                end = combined(y, h, ks, A, len(C))
                whole = ks + (FIELD(t1.to(y[0].dtype), end, ps, row, SPEC),)
                whole = more_slopes(t, t1, y, whole, ps, row, X, N, FIELD, SPEC)
            g, back, ls, sums = _pulled_outputs(g, back, ls, sums, t, t1, y, whole, live, ps, row,
                                                A, X, N, PULL, SPEC)  # fmt: skip
        back = _plus(back, g)
        ls = _scattered(ls, h, g, A, len(C))
        for j in tl.static_range(len(C) - 1, -1, -1):
            state = combined(y, h, ks, A, j)
            time = stage_time(t, t1, C, j).to(y[0].dtype)
            v, sums = PULL(time, state, ls[j + 1], ps, row, live, sums, SPEC)
            back = _plus(back, v)
            ls = _scattered(ls, h, v, A, j)
        v, sums = PULL(t.to(y[0].dtype), y, ls[0], ps, row, live, sums, SPEC)
        g = chosen(live, _plus(back, v), g)
        left -= live.to(tl.int32)
    while any_of(column >= 0):
        due = present & (column >= 0)
        g = _plus(g, read(grad, at + column.to(tl.int64) * flat, inside & due, COMPONENTS))
        column -= 1
    write(out, at, inside, g)
    STORE(sums, grads, ps, row, present, SPEC)
