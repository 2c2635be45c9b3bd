"""An expression as the programs of a whole solve evaluate it, and its transpose.

SPEC is (kinds of the parameters, code, outputs, code of the transpose, its outputs). Code is what
`ode_solvers.expression` has traced: operations on values that came before, the first being the
time, the state's components and the parameters.
"""

import triton
import triton.language as tl

from ode_solvers.whole.mlp_programs import _sigmoid, _softplus, _tanh


@triton.jit
def _function(x, NAME: tl.constexpr):
    if NAME == "neg":
        out = -x
    elif NAME == "sin":
        out = tl.sin(x)
    elif NAME == "cos":
        out = tl.cos(x)
    elif NAME == "exp":
        out = tl.exp(x)
    elif NAME == "log":
        out = tl.log(x)
    elif NAME == "sqrt":
        out = tl.sqrt(x)
    elif NAME == "tanh":
        out = _tanh(x)
    elif NAME == "sigmoid":
        out = _sigmoid(x)
    elif NAME == "softplus":
        out = _softplus(x)
    elif NAME == "abs":
        out = tl.abs(x)
    else:
        tl.static_assert(NAME == "sign")
        out = tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x * 0.0)).to(x.dtype)
    return out


@triton.jit
def _operation(a, b, NAME: tl.constexpr):
    if NAME == "add":
        out = a + b
    elif NAME == "sub":
        out = a - b
    elif NAME == "mul":
        out = a * b
    elif NAME == "div":
        out = a / b
    elif NAME == "maximum":
        out = tl.maximum(a, b)
    elif NAME == "minimum":
        out = tl.minimum(a, b)
    elif NAME == "pow":
        out = tl.exp(tl.log(a) * b)
    elif NAME == "gt":
        out = (a > b).to(a.dtype)
    else:
        tl.static_assert(NAME == "ge")
        out = (a >= b).to(a.dtype)
    return out


@triton.jit
def _values(given, SPEC: tl.constexpr, PART: tl.constexpr):
    """All values of a code, those given first."""
    values = given
    for i in tl.static_range(len(SPEC[PART])):
        if SPEC[PART][i][0] == "number":
            value = tl.full([1, 1], SPEC[PART][i][1], given[0].dtype)
        elif SPEC[PART][i][0] == "where":
            value = tl.where(values[SPEC[PART][i][1]] != 0.0, values[SPEC[PART][i][2]],
                             values[SPEC[PART][i][3]])  # fmt: skip
        elif len(SPEC[PART][i]) == 2:
            value = _function(values[SPEC[PART][i][1]], SPEC[PART][i][0])
        else:
            value = _operation(values[SPEC[PART][i][1]], values[SPEC[PART][i][2]],
                               SPEC[PART][i][0])  # fmt: skip
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
        if SPEC[0][i][0]:
            at += row * ps[3 * i + 1]
        if SPEC[0][i][1]:
            at = at + column * ps[3 * i + 2]
            inside = inside & (column < ps[3 * len(SPEC[0]) + 1])
        value = tl.load(ps[3 * i] + at, mask=inside, other=1.0)
        given = given + (value.to(y[0].dtype),)
    return given


@triton.jit
def expression(t, y, ps, row, SPEC: tl.constexpr):
    """dy/dt of every component."""
    values = _values(_given(t, y, ps, row, SPEC), SPEC, 1)
    out = ()
    for c in tl.static_range(len(y)):
        out = out + (tl.zeros_like(y[c]) + values[SPEC[2][c]],)
    return out


@triton.jit
def expression_pull(t, y, g, ps, row, live, sums, SPEC: tl.constexpr):
    """The gradient of the state, and sums with those of the parameters added, a row each."""
    values = _values(_given(t, y, ps, row, SPEC) + g, SPEC, 3)
    back, total = (), ()
    for c in tl.static_range(len(y)):
        back = back + (tl.where(live, tl.zeros_like(y[c]) + values[SPEC[4][c]], 0.0),)
    for i in tl.static_range(len(SPEC[0])):
        found = tl.zeros_like(y[0]) + values[SPEC[4][len(y) + i]]
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
        if SPEC[0][i][1] == 0:
            value, width, inside = tl.sum(value, 1, keep_dims=True), 1, inside & (column == 0)
        if SPEC[0][i][0]:
            at, inside = row * width + column, inside & live
        else:
            value = tl.sum(value, 0, keep_dims=True)
            at = tl.program_id(0).to(tl.int64) * width + column
        tl.store(grads[i] + at, value + tl.zeros_like(at).to(value.dtype), mask=inside)
