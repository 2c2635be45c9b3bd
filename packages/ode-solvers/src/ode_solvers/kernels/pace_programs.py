"""The Triton program of step-size control on the device; `pace` starts it."""

import triton
import triton.language as tl

_RUNNING, _REACHED, _MAX_STEPS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_TOO_SMALL, _NOT_FINITE = tl.constexpr(3), tl.constexpr(4)


@triton.jit
def _power(x, exponent: tl.constexpr):
    return tl.exp(exponent * tl.log(x))


@triton.jit
def _number(x: tl.constexpr):
    # Compared with a float64 value, a bare number would be rounded to float32 first.
    return tl.full([], x, tl.float64)


@triton.jit
def _smallest(t, SIGN: tl.constexpr):
    # Neighbouring numbers have neighbouring bits; only from zero both ways lead away.
    away = (t > 0.0) == (SIGN > 0.0)
    bits = t.to(tl.int64, bitcast=True)
    beyond = tl.where(away | (t == 0.0), bits + 1, bits - 1).to(tl.float64, bitcast=True)
    return 10.0 * tl.abs(beyond - t)


@triton.jit
def _factor(e, before, earlier, rejected, accept, EXPONENTS: tl.constexpr, LIMITS: tl.constexpr):
    e = tl.maximum(e, _number(1e-300))
    history = _power(e, EXPONENTS[0])
    if EXPONENTS[1] != 0.0:
        history *= _power(before, EXPONENTS[1])
    if EXPONENTS[2] != 0.0:
        history *= _power(earlier, EXPONENTS[2])
    factor = tl.maximum(LIMITS[0] / history, LIMITS[5] * _power(e, EXPONENTS[3]))
    factor = tl.maximum(factor, _number(LIMITS[1]))
    factor = tl.minimum(factor, _number(LIMITS[2]))
    factor = tl.where(accept, factor, tl.minimum(factor, _number(LIMITS[0])))
    factor = tl.where(accept & (rejected != 0.0), tl.minimum(factor, _number(1.0)), factor)
    return factor


@triton.jit
def pace_kernel(
    clock, error, record, accepted,
    EXPONENTS: tl.constexpr, LIMITS: tl.constexpr, SIGN: tl.constexpr, MADE: tl.constexpr,
):  # fmt: skip
    """Judge a step, and put its record and the clock after it where they belong.

    Places in a clock and a record are those of `ode_core.loops.pace`; EXPONENTS are those of the
    last three errors and of an integral controller, LIMITS safety, least and largest factor, least
    and largest step size, and the factor's share of the integral controller's.
    """
    t, t1, dt = tl.load(clock), tl.load(clock + 1), tl.load(clock + 2)
    at_stop, code, left = tl.load(clock + 3) != 0.0, tl.load(clock + 4), tl.load(clock + 5)
    stop, before, earlier = tl.load(clock + 6), tl.load(clock + 7), tl.load(clock + 8)
    rejected = tl.load(clock + 9)
    running, least = code == _RUNNING, _number(LIMITS[3])
    e = tl.load(error).to(tl.float64)
    e = tl.where(e != e, float("inf"), e)
    infinite = e == float("inf")
    if LIMITS[3] > 0.0:
        # The least step is taken whatever its error is, unless that is none at all.
        e = tl.where((dt <= least) & (e != float("inf")), tl.minimum(e, _number(1.0)), e)
    taken = tl.minimum(dt, tl.abs(t1 - t))
    accept = e <= 1.0
    factor = _factor(e, before, earlier, rejected, accept, EXPONENTS, LIMITS)
    kept = tl.where(accept, tl.maximum(e, _number(1e-4)), before)
    kept_before = tl.where(accept, before, earlier)
    refused = (accept == 0).to(tl.float64)
    accept = accept & running
    sized = taken * factor
    # A step cut short at a stop says little about the size that the next one can have.
    size = tl.where(accept & at_stop & (factor >= 1.0), tl.maximum(dt, sized), sized)
    size = tl.where(running, size, dt)
    after = tl.where(accept, t1, t)
    reached = accept & at_stop
    failed = (size < _smallest(after, SIGN)) & (reached == 0)
    failed = failed | ((accept == 0) & infinite & (taken <= least))
    left -= running.to(tl.float64)
    state = tl.where(left > 0.0, _RUNNING, _MAX_STEPS)
    state = tl.where(failed, tl.where(infinite, _NOT_FINITE, _TOO_SMALL), state)
    state = tl.where(reached, _REACHED, state).to(tl.float64)
    state = tl.where(running, state, code)
    size = tl.minimum(tl.maximum(size, least), _number(LIMITS[4]))
    ahead = after + SIGN * size
    reach = tl.minimum(size * _number(0.1), _number(LIMITS[4]) - size)
    cut = (ahead - stop) * SIGN > -tl.maximum(reach, size * _number(1e-9))
    ahead = tl.where(cut, stop, ahead)
    ahead = tl.where(state == _RUNNING, ahead, after)
    tl.store(record, t)
    tl.store(record + 1, t1)
    tl.store(record + 2, e)
    tl.store(record + 3, accept.to(tl.float64))
    tl.store(record + 4, running.to(tl.float64))
    tl.store(record + MADE, after)
    tl.store(record + MADE + 1, ahead)
    tl.store(record + MADE + 2, size)
    tl.store(record + MADE + 3, cut.to(tl.float64))
    tl.store(record + MADE + 4, state)
    tl.store(record + MADE + 5, left)
    tl.store(record + MADE + 6, stop)
    tl.store(record + MADE + 7, tl.where(running, kept, before))
    tl.store(record + MADE + 8, tl.where(running, kept_before, earlier))
    tl.store(record + MADE + 9, tl.where(running, refused, rejected))
    tl.store(accepted, accept)
