"""What per-sample steps cost beside f, in operations, and that both ways of counting agree."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ode_core.numbers
from ode_core import PIDController, Status, solve
from ode_core.interpolation import Hermite, at_rows
from tests.problems import F64

SAMPLES = {"stepping": "per_sample"}
# Of dopri5 in torch alone, views included. In C, which a mode such as the counter keeps out, the
# sums of a step and its norm are no operations of torch at all.
AN_ATTEMPT = 52
AN_OUTPUT = 38


class Counter(TorchDispatchMode):
    """Counts operations outside of f, and those that read a value."""

    def __init__(self):
        super().__init__()
        self.operations = self.reads = 0
        self.inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.inside:
            self.operations += 1
            self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))

    def outside_of(self, f):
        def counted(t, y):
            self.inside = True
            try:
                return f(t, y)
            finally:
                self.inside = False

        return counted


def cost(attempts, outputs=0, batch=6):
    """Return operations and reads of a solve of so many steps of one size."""
    counter, size = Counter(), 0.125
    f = counter.outside_of(lambda t, y: -y)
    end = attempts * size
    inner = [0.3 * size + i * size for i in range(outputs)]
    options = {"controller": PIDController(dt_max=size), "dt": size}
    with torch.no_grad(), counter:
        solution = solve(f, torch.ones(batch, 2), [0.0, *inner, end], **options, **SAMPLES)
    assert solution.stats.accepted.tolist() == [attempts] * batch
    return counter.operations, counter.reads


def test_an_attempt_is_few_operations_and_reads_nothing():
    (few, reads), (many, more) = cost(2), cost(22)
    assert (many - few) / 20 <= AN_ATTEMPT
    assert more == reads


def test_an_output_is_few_operations_whatever_the_batch():
    without, with_ten = cost(12)[0], cost(12, outputs=10)[0]
    assert (with_ten - without) / 10 <= AN_OUTPUT
    assert cost(12, outputs=10, batch=60)[0] == with_ten


def van_der_pol(t, y):
    x, v, mu = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x, 0 * mu], -1)


def stretched(count):
    mu = torch.logspace(-1, 1, count, dtype=F64)
    return torch.stack([torch.full_like(mu, 2.0), 0 * mu, mu], -1)


def blow_up(t, y):
    return y * y


def jumping(t, y):
    return (1.0 + 10.0 * (t > 0.4).to(y.dtype))[:, None].expand_as(y)


GRIDS = torch.tensor([[0, 1, 2, 5], [3, 2, math.nan, math.nan], [0, 0, 4, math.nan]], dtype=F64)
TIGHT = {"rtol": 1e-7, "atol": 1e-7}
CASES = {
    "rejections": (van_der_pol, stretched(5), torch.linspace(0, 6, 9, dtype=F64), {}),
    "dopri8": (van_der_pol, stretched(3), [0.0, 1.1, 4.0], {"solver": "dopri8"}),
    "adams": (van_der_pol, stretched(3), torch.linspace(0, 3, 40, dtype=F64),
              {"solver": "adams_moulton", **TIGHT}),
    "own grids": (lambda t, y: -y, torch.ones(3, 2, dtype=F64), GRIDS, TIGHT),
    "fixed": (lambda t, y: -y, torch.ones(3, 2, dtype=F64), GRIDS, {"solver": "rk4", "dt": 0.3}),
    "jumps": (jumping, torch.zeros(3, 1, dtype=F64), [0.0, 1.0], {"jump_times": [0.4], **TIGHT}),
    "a failure": (blow_up, torch.tensor([[1.0], [0.1]], dtype=F64), [0.0, 0.5, 1.5],
                  {"on_failure": "return"}),
    "limits": (van_der_pol, stretched(3), [0.0, 5.0],
               {"controller": PIDController(0.2, 0.5, 0.1, dt_min=1e-3, dt_max=0.2)}),
}  # fmt: skip


def stay_on_a_device(monkeypatch, *, waits):
    """Let numbers stay tensors, as they do on a device."""
    original = {name: getattr(ode_core.numbers, name) for name in ("numbers", "maybe")}
    replaced = {"numbers": lambda x: x.detach()}
    if not waits:
        replaced["maybe"] = lambda mask, more_than=0: True
    for module in list(sys.modules.values()):
        for name, new in replaced.items():
            if getattr(module, name, None) is original[name]:
                monkeypatch.setattr(module, name, new)


def solved(case):
    f, y0, t, options = CASES[case]
    solution = solve(f, y0, t, record_steps=True, **options, **SAMPLES)
    stats, log = solution.stats, solution.steps
    counts = [x.tolist() for x in (stats.f_calls, stats.accepted, stats.rejected)]
    return solution.ys, counts, solution.status, log.dt


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_numbers_on_a_device_are_those_on_the_host(case, waits, monkeypatch):
    ys, counts, status, sizes = solved(case)
    stay_on_a_device(monkeypatch, waits=waits)
    found = solved(case)
    assert found[1:3] == (counts, status)
    assert torch.allclose(found[0], ys, rtol=1e-11, atol=1e-12, equal_nan=True)
    # An error near a rounding of the state has few digits, and a size has those of its root.
    assert torch.allclose(found[3], sizes, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "adaptive_heun"])
def test_calls_between_steps_count_for_the_samples_they_are_made_for(solver):
    calls = []

    def f(t, y):
        calls.append(len(y))
        return -y

    times = torch.tensor([[0.0, 0.05, 3.0], [0.0, 3.0, math.nan]], dtype=F64)
    for rows in ([0], [1]):
        calls.clear()
        stats = solve(f, torch.ones(1, 2, dtype=F64), times[rows], solver=solver, **SAMPLES).stats
        assert stats.f_calls.tolist() == [len(calls)]
    both = solve(f, torch.ones(2, 2, dtype=F64), times, solver=solver, **SAMPLES).stats
    extra = {"dopri5": 0, "dopri8": 3, "adaptive_heun": 0}[solver]
    assert (both.f_calls[0] - both.f_calls[1]).item() == extra


def test_a_sample_that_had_nothing_to_do_goes_on_like_any_other():
    times = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=F64)
    first = solve(lambda t, y: -y, torch.ones(2, 1, dtype=F64), times, **TIGHT, **SAMPLES)
    later = torch.tensor([[0.0, 1.0], [1.0, 2.0]], dtype=F64)
    second = solve(lambda t, y: -y, first.state, later, **TIGHT, **SAMPLES)
    assert second.status == (Status.SUCCESS,) * 2
    assert second.ys[-1, :, 0].tolist() == pytest.approx([math.exp(-1), math.exp(-2)], rel=1e-6)


def test_rows_of_any_interpolant():
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(4, 3, dtype=F64, generator=generator) for _ in range(4)]
    own = Hermite(torch.rand(4, dtype=F64, generator=generator), *parts)
    rows, theta = torch.tensor([3, 1, 3]), torch.tensor([0.2, 0.9, 0.4], dtype=F64)
    states = at_rows(own, parts[0], rows, theta, (2, 1))
    assert torch.allclose(at_rows(own.__call__, parts[0], rows, theta, (2, 1)), states, rtol=1e-14)
    assert torch.allclose(states[2], own(torch.full((4,), 0.4, dtype=F64))[3], rtol=1e-14)
