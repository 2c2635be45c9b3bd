"""A perceptron as the programs of a whole solve evaluate it, and its transpose.

SPEC is (sizes, sizes padded to powers of two, activation, whether the time is an input). Weights
are read again at each evaluation, from the cache that is next to the arithmetic: held in registers
they would leave none for the steps.
"""

import triton
import triton.language as tl


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
    if KIND == "tanh":
        out = _tanh(x)
    elif KIND == "sigmoid":
        out = _sigmoid(x)
    elif KIND == "softplus":
        out = _softplus(x)
    elif KIND == "silu":
        out = x * _sigmoid(x)
    else:
        out = tl.where(x > 0.0, x, x * 0.0)
    return out


@triton.jit
def _rise(x, KIND: tl.constexpr):
    """The derivative of the activation."""
    if KIND == "tanh":
        value = _tanh(x)
        out = 1.0 - value * value
    elif KIND == "sigmoid":
        value = _sigmoid(x)
        out = value * (1.0 - value)
    elif KIND == "softplus":
        out = tl.where(x > 20.0, 1.0, _sigmoid(x))
    elif KIND == "silu":
        value = _sigmoid(x)
        out = value * (1.0 + x * (1.0 - value))
    else:
        out = tl.where(x > 0.0, 1.0, x * 0.0)
    return out


@triton.jit
def _weights(ps, SPEC: tl.constexpr, AT: tl.constexpr):
    """A layer's weights, `[outputs, inputs]`, zero outside."""
    into, out = tl.arange(0, SPEC[1][AT])[None, :], tl.arange(0, SPEC[1][AT + 1])[:, None]
    inside = (out < SPEC[0][AT + 1]) & (into < SPEC[0][AT])
    width = SPEC[0][AT]
    if AT == 0:
        if SPEC[3]:
            width = SPEC[0][AT] + 1
    return tl.load(ps[2 * AT] + out * width + into, mask=inside, other=0.0)


@triton.jit
def _column(pointer, step, SPEC: tl.constexpr, AT: tl.constexpr):
    out = tl.arange(0, SPEC[1][AT])
    return tl.load(pointer + out * step, mask=out < SPEC[0][AT], other=0.0)


@triton.jit
def _layer(t, x, ps, SPEC: tl.constexpr, AT: tl.constexpr):
    weights = _weights(ps, SPEC, AT)
    out = tl.sum(x[:, None, :] * weights[None, :, :], 2)
    out += _column(ps[2 * AT + 1], 1, SPEC, AT + 1)[None, :]
    if AT == 0:
        if SPEC[3]:
            size = SPEC[0][0]
            out += t * _column(ps[0] + size, size + 1, SPEC, 1)[None, :]
    return out


@triton.jit
def mlp(t, y, ps, row, SPEC: tl.constexpr):
    """dy/dt of one tile."""
    x = y[0]
    for i in tl.static_range(len(SPEC[0]) - 1):
        x = _layer(t, x, ps, SPEC, i)
        if i < len(SPEC[0]) - 2:
            x = activated(x, SPEC[2])
    return (x,)


@triton.jit
def mlp_pull(t, y, g, ps, row, live, sums, SPEC: tl.constexpr):
    """The gradient of the state, and sums with those of the parameters added."""
    before, x = (), y[0]
    inputs = (x,)
    for i in tl.static_range(len(SPEC[0]) - 2):
        before = before + (_layer(t, x, ps, SPEC, i),)
        x = activated(before[i], SPEC[2])
        inputs = inputs + (x,)
    back, found = g[0], ()
    for j in tl.static_range(len(SPEC[0]) - 1):
        LAYER: tl.constexpr = len(SPEC[0]) - 2 - j
        found = (tl.sum(back[:, :, None] * inputs[LAYER][:, None, :], 0), tl.sum(back, 0)) + found
        if LAYER == 0:
            if SPEC[3]:
                found = found + (tl.sum(back * t, 0),)
        back = tl.sum(back[:, :, None] * _weights(ps, SPEC, LAYER)[None, :, :], 1)
        if LAYER > 0:
            back = back * _rise(before[LAYER - 1], SPEC[2])
    total = ()
    for i in tl.static_range(len(sums)):
        total = total + (sums[i] + found[i],)
    return (back,), total


@triton.jit
def mlp_sums(y, SPEC: tl.constexpr):
    """Zeros for the gradients of weights and biases, and of the time's column."""
    out = ()
    for i in tl.static_range(len(SPEC[0]) - 1):
        out = out + (tl.zeros([SPEC[1][i + 1], SPEC[1][i]], y[0].dtype),
                     tl.zeros([SPEC[1][i + 1]], y[0].dtype))  # fmt: skip
    if SPEC[3]:
        out = out + (tl.zeros([SPEC[1][1]], y[0].dtype),)
    return out


@triton.jit
def mlp_store(sums, grads, ps, row, live, SPEC: tl.constexpr):
    """Store a program's sums, `[programs, outputs, inputs]` and `[programs, outputs]`."""
    program = tl.program_id(0).to(tl.int64)
    for i in tl.static_range(len(SPEC[0]) - 1):
        into, out = tl.arange(0, SPEC[1][i])[None, :], tl.arange(0, SPEC[1][i + 1])
        width = SPEC[0][i]
        if i == 0:
            if SPEC[3]:
                width = SPEC[0][i] + 1
        size = SPEC[0][i + 1]
        inside = (out < size)[:, None] & (into < SPEC[0][i])
        start = grads[2 * i] + program * size * width
        tl.store(start + out[:, None] * width + into, sums[2 * i], mask=inside)
        tl.store(grads[2 * i + 1] + program * size + out, sums[2 * i + 1], mask=out < size)
        if i == 0:
            if SPEC[3]:
                tl.store(start + out * width + width - 1, sums[len(sums) - 1], mask=out < size)
