"""A perceptron as the programs of a whole solve evaluate it, and its transpose.

SPEC is (sizes, sizes padded to powers of two, place of the activation in
`ode_solvers.whole.contract.ACTIVATIONS`, whether the time is an input). Weights
are read again at each evaluation, from the cache that is next to the arithmetic: held in registers
they would leave none for the steps.
"""

import triton
import triton.language as tl

TANH, SIGMOID, SOFTPLUS, SILU = (tl.constexpr(i) for i in range(4))


@triton.jit
def _tanh(x):
    # Where the exponential cancels, the series is exact to the last bit.
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    far = tl.where(x < 0.0, -far, far)
    s = x * x
    near = s * (-1382.0 / 155925.0) + 62.0 / 2835.0
    near = near * s - 17.0 / 315.0
    near = near * s + 2.0 / 15.0
    near = near * s - 1.0 / 3.0
    return tl.where(tl.abs(x) < 0.03125, x + x * s * near, far)


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def _softplus(x):
    # Beyond 20 torch takes the line.
    return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x))))


@triton.jit
def activated(x, KIND: tl.constexpr):
    """The activation of a layer."""
    if KIND == TANH:
        out = _tanh(x)
    elif KIND == SIGMOID:
        out = _sigmoid(x)
    elif KIND == SOFTPLUS:
        out = _softplus(x)
    elif KIND == SILU:
        out = x * _sigmoid(x)
    else:
        out = tl.where(x > 0.0, x, x * 0.0)
    return out


@triton.jit
def _rise(x, KIND: tl.constexpr):
    """The derivative of the activation."""
    if KIND == TANH:
        value = _tanh(x)
        out = 1.0 - value * value
    elif KIND == SIGMOID:
        value = _sigmoid(x)
        out = value * (1.0 - value)
    elif KIND == SOFTPLUS:
        out = tl.where(x > 20.0, 1.0, _sigmoid(x))
    elif KIND == SILU:
        value = _sigmoid(x)
        out = value * (1.0 + x * (1.0 - value))
    else:
        out = tl.where(x > 0.0, 1.0, x * 0.0)
    return out


@triton.jit
def _stand(x, AT: tl.constexpr):
    """A vector as a row where AT is even, as a column where it is odd."""
    return x[:, None] if AT % 2 else x[None, :]


@triton.jit
def _range(SPEC: tl.constexpr, AT: tl.constexpr, STANDS: tl.constexpr):
    """Places along a layer's input, and which of them exist."""
    at = _stand(tl.arange(0, SPEC[1][AT]), STANDS)
    return at, at < SPEC[0][AT]


@triton.jit
def _weights(ps, SPEC: tl.constexpr, AT: tl.constexpr):
    """Where a layer's weights are, `[outputs, inputs]` or, of every other layer, transposed."""
    into, known = _range(SPEC, AT, AT)
    out, wanted = _range(SPEC, AT + 1, AT + 1)
    width = SPEC[0][AT]
    if AT == 0:
        if SPEC[3]:
            width = SPEC[0][AT] + 1
    return ps[2 * AT] + out * width + into, known & wanted


@triton.jit
def _read(ps, SPEC: tl.constexpr, AT: tl.constexpr):
    at, inside = _weights(ps, SPEC, AT)
    # Nothing that was read before a barrier is kept in registers for what comes after it.
    tl.debug_barrier()
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def _layer(t, x, ps, SPEC: tl.constexpr, AT: tl.constexpr):
    """A layer before its activation: what lies in a row goes in, a column comes out, or back."""
    out, wanted = _range(SPEC, AT + 1, AT + 1)
    total = _stand(tl.sum(x * _read(ps, SPEC, AT), 1 - AT % 2), AT + 1)
    total += tl.load(ps[2 * AT + 1] + out, mask=wanted, other=0.0)
    if AT == 0:
        if SPEC[3]:
            last = ps[0] + out * (SPEC[0][0] + 1) + SPEC[0][0]
            total += t * tl.load(last, mask=wanted, other=0.0)
    return total


@triton.jit
def _turned(x, LAYERS: tl.constexpr):
    return tl.trans(x) if LAYERS % 2 else x


@triton.jit
def mlp(t, y, ps, row, SPEC: tl.constexpr):
    """dy/dt of one tile of one sample."""
    x = y[0]
    for i in tl.static_range(len(SPEC[0]) - 1):
        x = _layer(t, x, ps, SPEC, i)
        if i < len(SPEC[0]) - 2:
            x = activated(x, SPEC[2])
    return (_turned(x, len(SPEC[0]) - 1),)


@triton.jit
def mlp_pull(t, y, g, ps, row, live, sums, SPEC: tl.constexpr):
    """The gradient of the state, and sums with those of the parameters added."""
    before, x = (), y[0]
    inputs = (x,)
    for i in tl.static_range(len(SPEC[0]) - 2):
        before = before + (_layer(t, x, ps, SPEC, i),)
        x = activated(before[i], SPEC[2])
        inputs = inputs + (x,)
    back, found = _turned(g[0], len(SPEC[0]) - 1), ()
    for i in tl.static_range(len(SPEC[0]) - 2, -1, -1):
        found = (back * inputs[i], back) + found
        if i == 0:
            if SPEC[3]:
                found = found + (back * t,)
        back = _stand(tl.sum(back * _read(ps, SPEC, i), i % 2), i)
        if i > 0:
            back = back * _rise(before[i - 1], SPEC[2])
    total = ()
    for i in tl.static_range(len(sums)):
        total = total + (sums[i] + found[i],)
    return (back,), total


@triton.jit
def _nothing(DTYPE: tl.constexpr, SPEC: tl.constexpr, AT: tl.constexpr):
    return _stand(tl.arange(0, SPEC[1][AT]), AT).to(DTYPE) * 0.0


@triton.jit
def mlp_sums(y, SPEC: tl.constexpr):
    """Zeros for the gradients of weights and biases, and of the time's column."""
    out = ()
    for i in tl.static_range(len(SPEC[0]) - 1):
        bias = _nothing(y[0].dtype, SPEC, i + 1)
        out = out + (bias + _nothing(y[0].dtype, SPEC, i), bias)
    if SPEC[3]:
        out = out + (_nothing(y[0].dtype, SPEC, 1),)
    return out


@triton.jit
def mlp_store(sums, grads, ps, row, live, SPEC: tl.constexpr):
    """Store a program's sums, `[programs, outputs, inputs]` and `[programs, outputs]`."""
    program = tl.program_id(0).to(tl.int64)
    for i in tl.static_range(len(SPEC[0]) - 1):
        out, wanted = _range(SPEC, i + 1, i + 1)
        at, inside = _weights(grads, SPEC, i)
        width = SPEC[0][i]
        if i == 0:
            if SPEC[3]:
                width = SPEC[0][i] + 1
        skipped = program * SPEC[0][i + 1]
        tl.store(at + skipped * width, sums[2 * i], mask=inside)
        tl.store(grads[2 * i + 1] + skipped + out, sums[2 * i + 1], mask=wanted)
        if i == 0:
            if SPEC[3]:
                last = grads[0] + (skipped + out) * width + width - 1
                tl.store(last, sums[len(sums) - 1], mask=wanted)
