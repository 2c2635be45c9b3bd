"""An expression as the programs of a whole solve evaluate it, and its transpose.

SPEC holds flat tuples: whether each parameter differs from row to row, and from entry to entry;
from 2 on the names, three operands and numbers of the operations, and the outputs; from 8 on those
of the transpose. They are what `ode_solvers.expression` has traced: operations on values that came
before, the first being the time, the state's components and the parameters.
"""

import triton
import triton.language as tl

from ode_solvers.whole.mlp_programs import _sigmoid, _softplus, _tanh

# The order is that of `ode_solvers.expression.OPERATIONS`.
_NEG, _SIN, _COS, _EXP, _LOG, _SQRT = (tl.constexpr(i) for i in range(6))
_TANH, _SIGMOID, _SOFTPLUS, _ABS, _SIGN = (tl.constexpr(i) for i in range(6, 11))
_ADD, _SUB, _MUL, _DIV, _MAXIMUM = (tl.constexpr(i) for i in range(11, 16))
_MINIMUM, _POW, _GT, _GE, _WHERE, _NUMBER = (tl.constexpr(i) for i in range(16, 22))


@triton.jit
def _function(x, NAME: tl.constexpr):
    if NAME == _NEG:
        out = -x
    elif NAME == _SIN:
        out = tl.sin(x)
    elif NAME == _COS:
        out = tl.cos(x)
    elif NAME == _EXP:
        out = tl.exp(x)
    elif NAME == _LOG:
        out = tl.log(x)
    elif NAME == _SQRT:
        out = tl.sqrt(x)
    elif NAME == _TANH:
        out = _tanh(x)
    elif NAME == _SIGMOID:
        out = _sigmoid(x)
    elif NAME == _SOFTPLUS:
        out = _softplus(x)
    elif NAME == _ABS:
        out = tl.abs(x)
    else:
        tl.static_assert(NAME == _SIGN)
        out = tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x * 0.0)).to(x.dtype)
    return out


@triton.jit
def _operation(a, b, NAME: tl.constexpr):
    if NAME == _ADD:
        out = a + b
    elif NAME == _SUB:
        out = a - b
    elif NAME == _MUL:
        out = a * b
    elif NAME == _DIV:
        out = a / b
    elif NAME == _MAXIMUM:
        out = tl.maximum(a, b)
    elif NAME == _MINIMUM:
        out = tl.minimum(a, b)
    elif NAME == _POW:
        out = tl.exp(tl.log(a) * b)
    elif NAME == _GT:
        out = (a > b).to(a.dtype)
    else:
        tl.static_assert(NAME == _GE)
        out = (a >= b).to(a.dtype)
    return out


@triton.jit
def _values(given, SPEC: tl.constexpr, PART: tl.constexpr):
    """All values of a code, those given first."""
    values = given
    for i in tl.static_range(len(SPEC[PART])):
        if SPEC[PART][i] == _NUMBER:
            value = tl.full([1, 1], SPEC[PART + 4][i], given[0].dtype)
        elif SPEC[PART][i] == _WHERE:
            value = tl.where(values[SPEC[PART + 1][i]] != 0.0, values[SPEC[PART + 2][i]],
                             values[SPEC[PART + 3][i]])  # fmt: skip
        elif SPEC[PART][i] < _ADD:
            value = _function(values[SPEC[PART + 1][i]], SPEC[PART][i])
        else:
            value = _operation(values[SPEC[PART + 1][i]], values[SPEC[PART + 2][i]],
                               SPEC[PART][i])  # fmt: skip
        values = values + (value,)
    return values


@triton.jit
def _given(t, y, ps, row, SPEC: tl.constexpr):
    """The time, the state and the parameters, each `[BB, W]` or one of these 1."""
    given = (t,) + y
    column = tl.arange(0, y[0].shape[1])[None, :]
    for i in tl.static_range(len(SPEC[0])):
        at = row * 0
        inside = row < ps[3 * len(SPEC[0])]
        if SPEC[0][i]:
            at += row * ps[3 * i + 1]
        if SPEC[1][i]:
            at = at + column * ps[3 * i + 2]
            inside = inside & (column < ps[3 * len(SPEC[0]) + 1])
        value = tl.load(ps[3 * i] + at, mask=inside, other=1.0)
        given = given + (value.to(y[0].dtype),)
    return given


@triton.jit
def expression(t, y, ps, row, SPEC: tl.constexpr):
    """dy/dt of every component."""
    values = _values(_given(t, y, ps, row, SPEC), SPEC, 2)
    out = ()
    for c in tl.static_range(len(y)):
        out = out + (tl.zeros_like(y[c]) + values[SPEC[7][c]],)
    return out


@triton.jit
def expression_pull(t, y, g, ps, row, live, sums, SPEC: tl.constexpr):
    """The gradient of the state, and sums with those of the parameters added, a row each."""
    values = _values(_given(t, y, ps, row, SPEC) + g, SPEC, 8)
    back, total = (), ()
    for c in tl.static_range(len(y)):
        back = back + (tl.where(live, tl.zeros_like(y[c]) + values[SPEC[13][c]], 0.0),)
    for i in tl.static_range(len(SPEC[0])):
        found = tl.zeros_like(y[0]) + values[SPEC[13][len(y) + i]]
        # A function may have no slope at the zeros that stand where no row is.
        total = total + (sums[i] + tl.where(live, found, 0.0),)
    return back, total


@triton.jit
def expression_sums(y, SPEC: tl.constexpr):
    """Zeros for the gradients of the parameters."""
    out = ()
    for _ in tl.static_range(len(SPEC[0])):
        out = out + (tl.zeros_like(y[0]),)
    return out


@triton.jit
def expression_store(sums, grads, ps, row, live, SPEC: tl.constexpr):
    """Store sums: `[B or programs, W or 1]`, over the rows where all share a parameter."""
    for i in tl.static_range(len(SPEC[0])):
        column = tl.arange(0, sums[i].shape[1])[None, :]
        inside = column < ps[3 * len(SPEC[0]) + 1]
        value, width = tl.where(inside, sums[i], 0.0), ps[3 * len(SPEC[0]) + 1]
        if SPEC[1][i] == 0:
            value, width, inside = tl.sum(value, 1, keep_dims=True), 1, inside & (column == 0)
        if SPEC[0][i]:
            at, inside = row * width + column, inside & live
        else:
            value = tl.sum(value, 0, keep_dims=True)
            at = tl.program_id(0).to(tl.int64) * width + column
        tl.store(grads[i] + at, value + tl.zeros_like(at).to(value.dtype), mask=inside)
