"""What the Triton kernel does beside sums: rows of step sizes, transposes, continuous output."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import Tolerance, solve
from ode_core.loops.pace import MADE, TorchPace
from ode_core.tolerance import SampleTolerance
from ode_solvers.kernels import memory
from ode_solvers.kernels.choose import named
from ode_solvers.tableau import row_of
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8
from ode_solvers.tables.tsit5 import TSIT5
from tests.problems import F64, Circle
from tests.solvers.test_kernels import CLOSE, DEVICE, close, random

FUSED, REFERENCE = named("triton"), named("reference")
BATCHES = [(1, 1), (5,), (1, 4097), (37, 5), (513, 33), (2, 1025), (3, 1024), (2, 3, 4, 5)]


@pytest.fixture
def launches(monkeypatch):
    """The names of the programs that were started."""
    started = []
    launch = type(FUSED).launch

    def counting(self, kernel, *arguments):
        started.append(kernel.__name__)
        return launch(self, kernel, *arguments)

    monkeypatch.setattr(type(FUSED), "launch", counting)
    return started


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a program fails to write is seen: it holds NaN."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _make=make, **k: _make(*a, **k).fill_(math.nan))


def steps_of(y):
    """A step size for each row: forwards, backwards, and none."""
    return (0.3 * torch.cos(torch.arange(len(y), dtype=F64) * 1.7)).to(DEVICE)


def compare_rows(dtype, shape, table, given, arrange=lambda x: x, spread=False):
    y = arrange(random(shape, dtype, 0))
    ks = [arrange(random(shape, dtype, 1 + i)) for i in range(len(table.with_end_rows()))]
    dt = steps_of(y)
    h, wanted_h = FUSED.prepare(dt, y), REFERENCE.prepare(dt, y)
    sums, norms = CLOSE[dtype]
    row = table.stage_rows[-1]
    assert close(FUSED.combine(y, h, row, ks), REFERENCE.combine(y, wanted_h, row, ks), sums)
    rtol = torch.rand(len(y), *(1,) * (y.dim() - 1), dtype=F64, device=DEVICE) + 0.01
    tolerance = SampleTolerance(rtol if spread else 1e-2, 1e-2)
    y1 = REFERENCE.combine(y, wanted_h, table.solution_row, ks) if given else None
    arguments = (table.solution_row, table.error_rows, ks, tolerance)
    out, found = FUSED.finish(y, y1, h, *arguments)
    made, expected = REFERENCE.finish(y, y1, wanted_h, *arguments)
    assert close(out, made, sums)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == (len(y),)
        assert mine.dtype == F64
        assert torch.allclose(mine, theirs, rtol=norms)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("shape", BATCHES, ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_every_row_has_its_own_step_and_norm(dtype, shape, given):
    compare_rows(dtype, shape, DOPRI5, given, spread=given)


@pytest.mark.parametrize("arrange", ["transposed", "strided", "channels_last", "misaligned"])
def test_rows_of_tensors_that_are_not_contiguous(arrange):
    arranged = {
        "transposed": ((33, 6), lambda x: x.t()),
        "strided": ((33, 6), lambda x: x[:, ::2]),
        "channels_last": ((2, 3, 4, 5), lambda x: x.to(memory_format=torch.channels_last)),
        "misaligned": ((34, 6), lambda x: x.reshape(-1)[6:].view(33, 6)),
    }
    shape, change = arranged[arrange]
    compare_rows(F64, shape, DOPRI8, given=False, arrange=change)


def test_a_row_that_is_not_finite_is_refused_alone():
    y0 = random((4, 1500), F64, 0)
    ks = [random((4, 1500), F64, 1 + i) for i in range(7)]
    ks[3][1, 1400] = math.nan
    y1 = y0 + 0.1
    y1[2, 3] = math.inf
    h = FUSED.prepare(steps_of(y0), y0)
    _, (norm,) = FUSED.finish(y0, y1, h, DOPRI5.solution_row, DOPRI5.error_rows, ks,
                              SampleTolerance(1e-3, 1e-3))  # fmt: skip
    assert norm.isinf().tolist() == [False, True, True, False]


def test_nothing_is_read_where_the_step_size_is_on_the_device():
    y = random((3000,), F64, 0)
    ks = [random((3000,), F64, 1 + i) for i in range(13)]
    arguments = (DOPRI8.solution_row, DOPRI8.error_rows, ks, Tolerance(1e-3, 1e-3))
    h = FUSED.prepare(torch.tensor(0.3, dtype=F64, device=DEVICE), y)
    out, found = FUSED.finish(y, None, h, *arguments)
    made, expected = FUSED.finish(y, None, 0.3, *arguments)
    assert all(isinstance(norm, torch.Tensor) and norm.dim() == 0 for norm in found)
    # One program, another way in: to the bit.
    assert torch.equal(out, made)
    assert tuple(float(norm) for norm in found) == expected


def test_two_estimates_are_one_launch_and_a_large_state_two(launches):
    for size, expected in ((900, ["finish_kernel"]), (3000, ["finish_kernel", "norm_kernel"])):
        launches.clear()
        y = random((size,), F64, 0)
        FUSED.finish(y, None, 0.3, DOPRI8.solution_row, DOPRI8.error_rows, [y] * 13,
                     Tolerance(1e-3, 1e-3))  # fmt: skip
        assert launches == expected


def test_results_repeat_to_the_bit():
    y = random((5000,), torch.float32, 0)
    ks = [random((5000,), torch.float32, 1 + i) for i in range(7)]
    arguments = (DOPRI5.solution_row, DOPRI5.error_rows, ks, Tolerance(1e-3, 1e-3))
    first = FUSED.finish(y, None, 0.3, *arguments)
    for _ in range(3):
        again = FUSED.finish(y, None, 0.3, *arguments)
        assert torch.equal(first[0], again[0])
        assert first[1] == again[1]


def test_slopes_that_are_the_state_itself_or_lazily_conjugated():
    y = random((40,), torch.complex128, 0)
    row = DOPRI5.stage_rows[2]
    for ks in ([y, y, y], [y.conj(), y.resolve_conj(), torch._neg_view(y)]):
        out = FUSED.combine(y, 0.3, row, ks)
        assert close(out, REFERENCE.combine(y, 0.3, row, ks), 1e-14)


def test_tolerances_are_spread_over_the_state_once_a_solve(monkeypatch):
    spread = []
    make = memory.allowances

    def counting(tolerance, like):
        held = tolerance in memory._SPREAD
        made = make(tolerance, like)
        spread.append(held)
        return made

    monkeypatch.setattr("ode_solvers.kernels.fused.allowances", counting)
    solver = ode_core.solvers.create("dopri5", kernel="triton")
    rtol = torch.tensor([1e-6, 1e-7], dtype=F64, device=DEVICE)
    y0 = Circle(0.5).y0.to(DEVICE)
    solve(Circle(0.5), y0, [0.0, 1.0], solver=solver, rtol=rtol)
    assert len(spread) > 5
    # The first norms of a solve are those of the choice of its first step.
    assert spread.count(False) == 1


@pytest.mark.parametrize("table", [DOPRI5, TSIT5, DOPRI8], ids=lambda table: table.name)
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.complex64], ids=str)
def test_continuous_output_is_the_same_sum(table, dtype):
    # Powers and nested products round differently where large coefficients cancel.
    dense, slack = table.dense, 20 * CLOSE[dtype][0]
    y = random((37, 5), dtype, 0)
    ks = [random((37, 5), dtype, 1 + i) for i in range(len(dense.coefficients))]
    for theta in (0.25, 0.9):
        wanted = REFERENCE.combine(y, -0.3, row_of(dense.weights(theta)), ks)
        assert close(FUSED.interpolate(y, -0.3, theta, dense, ks), wanted, slack)
        h = torch.tensor(-0.3, dtype=F64, device=DEVICE)
        assert close(FUSED.interpolate(y, h, theta, dense, ks), wanted, slack)
    theta = torch.rand(37, dtype=F64, device=DEVICE)
    found = FUSED.interpolate(y, steps_of(y), theta, dense, ks)
    for i, (h, place) in enumerate(zip(steps_of(y).tolist(), theta.tolist(), strict=True)):
        row = row_of(dense.weights(place))
        wanted = REFERENCE.combine(y[i], h, row, [k[i] for k in ks])
        assert close(found[i], wanted, slack)


def test_outputs_within_steps_are_one_launch_each(launches):
    solver = ode_core.solvers.create("dopri5", kernel="triton")
    y0 = Circle(0.5).y0.to(DEVICE)
    times = [0.0, 0.501, 0.502, 3.0]
    fused = solve(Circle(0.5), y0, times, solver=solver, rtol=1e-6, atol=1e-6)
    steps = fused.stats.accepted + fused.stats.rejected
    assert len(launches) == 7 * steps + 2
    plain = solve(Circle(0.5), y0, times, solver="dopri5", rtol=1e-6, atol=1e-6)
    assert torch.allclose(fused.ys, plain.ys, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
def test_first_and_second_gradients(shared, dtype):
    y = random((2, 1), dtype, 0).requires_grad_()
    ks = [random((2, 1), dtype, 1 + i).requires_grad_() for i in range(3)]
    h = 0.7 if shared else steps_of(y)

    def f(y, *ks):
        out = FUSED.combine(y, h, ((0, 0.5), (2, -0.25)), ks)
        return out * out

    assert torch.autograd.gradcheck(f, (y, *ks))
    assert torch.autograd.gradgradcheck(f, (y, *ks))


def test_the_gradient_of_a_sum_is_one_launch(launches):
    y = random((2000,), F64, 0)
    ks = [random((2000,), F64, 1 + i).requires_grad_(i != 1) for i in range(6)]
    out = FUSED.combine(y, 0.7, DOPRI5.stage_rows[-1], ks)
    launches.clear()
    grads = torch.autograd.grad(out.sum(), [k for i, k in enumerate(ks) if i not in (1, 5)])
    assert launches == ["scatter_kernel"]
    weights = dict(DOPRI5.stage_rows[-1])
    for i, grad in zip((0, 2, 3, 4), grads, strict=True):
        assert torch.allclose(grad, torch.full_like(grad, 0.7 * weights.get(i, 0.0)))


@pytest.mark.parametrize("gradient", ["direct", "symplectic"])
def test_per_sample_solves_and_their_gradients(gradient):
    def solved(kernel):
        y0 = (torch.arange(10.0, dtype=F64, device=DEVICE).view(5, 2) / 7 + 0.2).requires_grad_()
        speed = torch.tensor([1.0, 2.0], dtype=F64, device=DEVICE, requires_grad=True)
        solver = ode_core.solvers.create("dopri5", kernel=kernel)
        ends = torch.linspace(0.5, 1.5, 5, dtype=F64)
        times = torch.stack([torch.zeros(5, dtype=F64), ends / 3, ends], 1)
        solution = solve(
            lambda t, y: torch.sin(speed * y) - y * y * t[:, None], y0, times, solver=solver,
            gradient=gradient, stepping="per_sample", rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        return solution, torch.autograd.grad(solution.ys.square().sum(), (y0, speed))

    (fused, mine), (plain, theirs) = solved("triton"), solved("cpu")
    assert torch.equal(fused.stats.accepted, plain.stats.accepted)
    assert torch.allclose(fused.ys, plain.ys, rtol=1e-12)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10)


CONTROLLERS = [ode_core.PIDController(), ode_core.PIDController(0.3, 0.4, 0.1, dt_min=0.01),
               ode_core.PIDController(dt_max=0.2)]  # fmt: skip


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
def test_step_size_control_in_one_launch_decides_as_torch_does(controller, sign, launches):
    plain = TorchPace(controller, 5, sign, controller.init())
    fused = FUSED.pace(plain)
    generator = torch.Generator().manual_seed(1)
    for trial in range(60):
        numbers = torch.rand(8, dtype=F64, generator=generator).tolist()
        error = [0.0, math.inf, math.nan, 1.0, *(10 ** (8 * x - 5) for x in numbers)][trial % 12]
        t = sign * [0.0, 2.0 * numbers[0], 1.0 + 1e-3 * numbers[0]][trial % 3]
        dt = [numbers[1], 1e-18, 1e-323, 0.01][trial % 4]
        memory = (numbers[2] + 1e-4, numbers[3] + 1e-4, trial % 5 == 0)
        left = trial % 7
        begun = plain.begun(t, dt, left, sign * 1.5, memory)
        clock = torch.tensor(begun, dtype=F64, device=DEVICE)
        found, wanted = (torch.zeros(MADE + len(begun), dtype=F64, device=DEVICE) for _ in "ab")
        given = torch.tensor(error, dtype=F64, device=DEVICE)
        accepts = [bool(p.judge(clock, given, out)) for p, out in ((fused, found), (plain, wanted))]
        assert accepts[0] == accepts[1]
        assert torch.allclose(found, wanted, rtol=1e-13, atol=0.0), (trial, found, wanted)
    assert launches == ["pace_kernel"] * 60


def test_a_solve_on_the_device_is_few_launches_and_the_same_steps(launches):
    solver = ode_core.solvers.create("dopri5", kernel="triton")
    y0 = Circle(0.5).y0.to(DEVICE)
    options = {"rtol": 1e-4, "atol": 1e-6, "record_steps": True, "solver": solver}
    host = solve(Circle(0.5), y0, [0.0, 0.4, 3.0], **options)
    launches.clear()
    device = solve(Circle(0.5), y0, [0.0, 0.4, 3.0], graph=ode_core.Graph(4), **options)
    attempts = -(-(host.stats.accepted + host.stats.rejected) // 4) * 4
    # Six sums, the norm and the verdict; one output within a step.
    assert len(launches) == 8 * attempts + 1
    assert torch.allclose(host.ys, device.ys, rtol=1e-12)
    assert torch.allclose(host.steps.t, device.steps.t, rtol=1e-12)
    assert torch.allclose(host.steps.error, device.steps.error, rtol=1e-9)
    assert torch.equal(host.steps.accepted, device.steps.accepted)


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_a_recorded_step_takes_one_launch_a_slope_backwards(solver, launches):
    def grads(kernel):
        made = ode_core.solvers.create(solver, kernel=kernel)
        y0 = random((7, 3), F64, 1).requires_grad_()
        rate = torch.tensor(0.7, dtype=F64, device=DEVICE, requires_grad=True)
        ys = solve(lambda t, y: torch.sin(rate * y) + t, y0, [0.0, 0.5], solver=made,
                   controller=ode_core.FixedSteps(), dt=0.25).ys  # fmt: skip
        loss = ys[-1].square().sum()
        launches.clear()
        first = torch.autograd.grad(loss, (y0, rate), retain_graph=True)
        counted = list(launches)
        recorded = torch.autograd.grad(loss, (y0, rate), create_graph=True)
        second = torch.autograd.grad(recorded[0].square().sum(), (y0, rate))
        return (*first, *recorded, *second), counted

    found, counted = grads("triton")
    wanted, _ = grads("reference")
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found, wanted, strict=True))
    # Two steps with a launch for each slope, and one for the state.
    stages = {"dopri5": 6, "rk4": 4}[solver]
    assert counted == ["combine_kernel"] * 2 * (stages + 1)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
def test_rows_that_begin_between_two_multiples_of_sixteen_bytes_keep_to_themselves(dtype):
    # Blocks begin before such a row, in the one above it, whose numbers are not finite here.
    y, *ks = (random((5, 2051), dtype, i) for i in range(8))
    for x in (y, *ks):
        x[::2] = math.nan
    h = FUSED.prepare(steps_of(y), y)
    given = (DOPRI5.solution_row, DOPRI5.error_rows, ks, SampleTolerance(1e-2, 1e-2))
    made, (norms,) = FUSED.finish(y, None, h, *given)
    exact, (wanted,) = REFERENCE.finish(y, None, REFERENCE.prepare(steps_of(y), y), *given)
    sums, off = CLOSE[dtype]
    assert torch.equal(made.isnan(), exact.isnan())
    assert close(made[1::2], exact[1::2], sums)
    assert norms.isinf().tolist() == [True, False, True, False, True]
    assert torch.allclose(norms[1::2], wanted[1::2], rtol=off)
    scattered = FUSED.scattered(y, h, 0.0, ((0.5,), (0.25,)))
    assert torch.equal(scattered[0].isnan(), y.isnan())
