"""The stages that C makes in one call: the same numbers, errors and references as Python's loop."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

from ode_core import ArgumentError, FixedSteps, registry, solve
from ode_solvers.explicit import RungeKutta
from ode_solvers.kernels import native_stages
from tests.problems import F64

pytestmark = pytest.mark.skipif(not native_stages.available(), reason="needs a C compiler")
EXPLICIT = [
    name
    for name in registry.solvers
    if isinstance(registry.solvers.create(name), RungeKutta)
] if native_stages.available() else []  # fmt: skip


def both(monkeypatch, problem):
    """What a problem gives by C and by Python, and how often C was called."""
    calls = []
    run = native_stages.run
    with monkeypatch.context() as patch:
        patch.setattr(native_stages, "run", lambda *given: calls.append(1) or run(*given))
        by_c = problem()
        patch.setattr(native_stages, "available", lambda: False)
        count = len(calls)
        by_python = problem()
    assert len(calls) == count > 0
    return by_c, by_python


def swing(t, y):
    return torch.stack((y[..., 1], -y[..., 0] * (1 + t)), -1)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", EXPLICIT)
def test_it_equals_the_loop_to_the_bit(monkeypatch, name, dtype):
    y0 = torch.rand(5, 2, dtype=dtype)
    adaptive = registry.solvers[name].adaptive
    options = {} if adaptive else {"dt": 0.01}
    a, b = both(monkeypatch, lambda: solve(swing, y0, [0.0, 0.4, 1.3], solver=name, **options))
    assert torch.equal(a.ys, b.ys)
    assert a.stats == b.stats


@pytest.mark.parametrize("name", ["dopri5", "bosh3", "rk4"])
def test_samples_with_steps_of_their_own_too(monkeypatch, name):
    y0 = torch.rand(5, 2, dtype=F64)
    options = {"dt": 0.01} if name == "rk4" else {}
    a, b = both(
        monkeypatch,
        lambda: solve(swing_each, y0, [0.0, 1.3], solver=name, stepping="per_sample", **options),
    )
    assert torch.equal(a.ys, b.ys)
    assert torch.equal(a.stats.f_calls, b.stats.f_calls)


def swing_each(t, y):
    return torch.stack((y[..., 1], -y[..., 0] * (1 + t)), -1)


@pytest.mark.parametrize(
    ("what", "f"),
    [
        ("expanded", lambda t, y: (-y.mean()).expand(y.shape)),
        ("transposed", lambda t, y: (-y.t().contiguous()).t()),
        ("the state", lambda t, y: y),
        ("a view of the state", lambda t, y: y.flip(0).view_as(y)),
        ("a subclass", lambda t, y: torch.nn.Parameter(-y, requires_grad=False)),
    ],
)
def test_slopes_that_lie_otherwise(monkeypatch, what, f):
    y0 = torch.rand(3, 3)
    a, b = both(monkeypatch, lambda: solve(f, y0, [0.0, 1.0]))
    assert torch.equal(a.ys, b.ys), what


def test_args_trees_and_times(monkeypatch):
    def f(t, y, scale, *more):
        assert t.dtype == torch.float64
        return {"a": -y["a"] * scale * t.to(y["a"].dtype), "b": y["b"] + len(more)}

    y0 = {"a": torch.rand(2), "b": torch.rand(3)}
    for args in ((2.0,), (torch.tensor(2.0), 1, 2), (2.0, *range(20))):
        a, b = both(
            monkeypatch,
            lambda args=args: solve(f, y0, [0.0, 1.0], args=args, time_dtype=torch.float64),
        )
        assert torch.equal(a.ys["a"], b.ys["a"])
        assert torch.equal(a.ys["b"], b.ys["b"])


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.float16])
def test_f_sees_the_times_of_the_loop(monkeypatch, dtype):
    seen = []

    def f(t, y):
        seen.append((t.clone(), t.dtype, t.shape))
        return -y

    y0 = torch.rand(3)
    both(monkeypatch, lambda: solve(f, y0, [0.0, 1.0], time_dtype=dtype))
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    # A time that f keeps stays what it was.
    assert all(a[1] == dtype and a[2] == () for a in seen)


def test_modes(monkeypatch):
    y0 = torch.rand(3)
    with torch.inference_mode():
        a, b = both(monkeypatch, lambda: solve(lambda t, y: -y * t, y0, [0.0, 1.0]))
        assert torch.equal(a.ys, b.ys)
    ends = torch.tensor([0.0, 1.0])
    torch.set_default_device("meta")
    try:
        a, b = both(monkeypatch, lambda: solve(lambda t, y: -y * t, y0, ends))
    finally:
        torch.set_default_device(None)
    assert torch.equal(a.ys, b.ys)
    with torch.autocast("cpu", torch.bfloat16):
        net = torch.nn.Linear(3, 3).requires_grad_(requires_grad=False)
        a, b = both(monkeypatch, lambda: solve(lambda t, y: net(y[None])[0], y0, [0.0, 1.0]))
    assert torch.equal(a.ys, b.ys)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_gradient_that_comes_late_is_kept(stepping):
    weight = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def f(t, y):
        late = t > 0.43
        return -y if not late.any() else torch.where(late, -weight, -1.0).view(-1, 1) * y

    y0 = torch.ones(2, 2, dtype=F64)
    options = {"controller": FixedSteps(), "dt": 0.3, "stepping": stepping}
    (found,) = torch.autograd.grad(solve(f, y0, [0.0, 0.9], **options).ys[-1].sum(), weight)
    step = 1e-6
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            weight.add_(sign * step)
            ends.append(solve(f, y0, [0.0, 0.9], **options).ys[-1].sum())
            weight.sub_(sign * step)
    assert found.item() == pytest.approx(((ends[0] - ends[1]) / (2 * step)).item(), rel=1e-6)


class BrokenError(Exception):
    pass


def broken(t, y):
    if t > 0.4:
        raise BrokenError
    return -y


def written(t, y):
    return y.mul_(-1.0) if t > 0.4 else -y


class Rewritten:
    def __init__(self):
        self.out = torch.zeros(3)

    def __call__(self, t, y):
        return torch.neg(y, out=self.out)


@pytest.mark.parametrize(
    ("f", "error", "match"),
    [
        (broken, BrokenError, None),
        (lambda t, y: None if t > 0.4 else -y, ArgumentError, "NoneType"),
        (lambda t, y: y[:2], ArgumentError, "shape of y0"),
        (lambda t, y: -y.double() if t > 0.4 else -y, ArgumentError, "dtype of the state"),
        (written, ArgumentError, "wrote into the state"),
        (Rewritten(), ArgumentError, "returned before"),
    ],
)
def test_what_f_does_wrong_is_told(f, error, match):
    with pytest.raises(error, match=match):
        solve(f, torch.rand(3), [0.0, 1.0], solver="rk4", dt=0.1)


def test_nothing_is_kept_and_nothing_is_lost():
    y0, arg = torch.rand(3), object()

    def f(t, y, arg):
        return -y

    def wrong(t, y, arg):
        return y[:2] if t > 0.5 else -y

    def tensors():
        gc.collect()
        return sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

    def often():
        for _ in range(20):
            solve(f, y0, [0.0, 1.0], args=(arg,))
            with pytest.raises(ArgumentError):
                solve(wrong, y0, [0.0, 1.0], args=(arg,))

    often()
    things = (None, True, f, wrong, arg, y0, torch.empty_like, torch.float32)
    before, counts = tensors(), [sys.getrefcount(thing) for thing in things]
    often()
    after = [sys.getrefcount(thing) for thing in things]
    assert tensors() == before
    # None and True are everywhere; what leaks is lost once for each of thousands of calls.
    assert all(abs(a - b) < 200 for a, b in zip(after, counts, strict=True)), (counts, after)
