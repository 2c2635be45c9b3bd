"""Every kernel gives the reference's results; Triton's run in its interpreter where no GPU is."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import ArgumentError, Tolerance, solve
from ode_solvers.kernels.choose import for_state, named
from ode_solvers.kernels.native import available
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8
from ode_solvers.tables.low_order import EULER, RK4
from tests.problems import F64, Circle

KERNELS = ["cpu", *(["native"] if available() else []), "triton"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Relative to the largest entry: sums, and norms.
CLOSE = {
    torch.float64: (1e-14, 1e-13),
    torch.float32: (5e-7, 2e-6),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.5e-2),
    torch.complex128: (1e-14, 1e-13),
    torch.complex64: (5e-7, 2e-6),
}
SHAPES = [(0,), (), (1,), (7,), (1000,), (1023,), (1024,), (1025,), (4097,), (37, 5), (3, 0, 2)]


def random(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator).to(DEVICE)


def close(a, b, relative):
    a, b = a.to(torch.complex128), b.to(torch.complex128)
    # The terms of a sum are of size 1 and may cancel.
    scale = b.abs().max().clamp_min(1.0) if b.numel() else 1.0
    return a.numel() == 0 or ((a - b).abs().max() / scale).item() <= relative


def compare(kernel, dtype, shape, table, arrange=lambda x: x):
    tested, reference = named(kernel), named("reference")
    y = arrange(random(shape, dtype, 0))
    ks = [arrange(random(shape, dtype, 1 + i)) for i in range(len(table.with_end_rows()))]
    tolerance = Tolerance(1e-2, 1e-2)
    sums, norms = CLOSE[dtype]
    for row in (*table.stage_rows, table.solution_row):
        out = tested.combine(y, tested.prepare(-0.3, y), row, ks)
        assert out.dtype == dtype
        assert out.shape == y.shape
        assert all(out.data_ptr() != x.data_ptr() for x in (y, *ks) if x.numel())
        assert close(out, reference.combine(y, -0.3, row, ks), sums)
    for given in (False, True):
        y1 = reference.combine(y, -0.3, table.solution_row, ks) if given else None
        arguments = (table.solution_row, table.error_rows, ks, tolerance)
        out, found = tested.finish(y, y1, tested.prepare(-0.3, y), *arguments)
        wanted, expected = reference.finish(y, y1, -0.3, *arguments)
        assert close(out, wanted, sums)
        assert found == pytest.approx(expected, rel=norms)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_equal_the_reference(kernel, dtype, shape):
    compare(kernel, dtype, shape, DOPRI5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_table_with_thirteen_slopes_and_two_estimates(kernel):
    compare(kernel, F64, (131,), DOPRI8)


ARRANGED = {
    "transposed": lambda x: x.t(),
    "strided": lambda x: x[:, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 6),
    "misaligned": lambda x: x.reshape(-1)[1:],
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arrange", ARRANGED)
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.complex64], ids=str)
def test_tensors_that_are_not_contiguous(kernel, arrange, dtype):
    compare(kernel, dtype, (33, 6), DOPRI5, ARRANGED[arrange])


@pytest.mark.parametrize("kernel", KERNELS)
def test_channels_last_states_stay_so(kernel):
    tested = named(kernel)
    y = random((2, 3, 4, 5), torch.float32, 0).to(memory_format=torch.channels_last)
    k = random((2, 3, 4, 5), torch.float32, 1)
    out = tested.combine(y, tested.prepare(0.5, y), ((0, 2.0),), [k])
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, y + k)


@pytest.mark.parametrize("kernel", ["reference", *KERNELS])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["state", "slope", "both"])
def test_what_is_not_finite_has_an_infinite_error(kernel, bad, where):
    tested = named(kernel)
    y0 = random((1500,), F64, 0)
    ks = [random((1500,), F64, 1 + i) for i in range(7)]
    y1 = y0 + 0.1
    if where in ("state", "both"):
        y1[700] = bad
    if where in ("slope", "both"):
        ks[0][1400] = bad
    h = tested.prepare(0.1, y0)
    _, norms = tested.finish(y0, y1, h, DOPRI5.solution_row, DOPRI5.error_rows, ks,
                             Tolerance(1e-3, 1e-3))  # fmt: skip
    assert norms == (math.inf,)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_overflow_in_the_sum_is_seen(kernel):
    """In float16 the new state overflows while every slope, and the estimate, is finite."""
    tested = named(kernel)
    y0 = torch.full((5,), 6e4, dtype=torch.float16, device=DEVICE)
    ks = [torch.full((5,), 6e4, dtype=torch.float16, device=DEVICE)] * 7
    y1, norms = tested.finish(y0, None, tested.prepare(1.0, y0), DOPRI5.solution_row,
                              DOPRI5.error_rows, ks, Tolerance(0.1, 0.1))  # fmt: skip
    assert torch.isinf(y1).all()
    assert norms == (math.inf,)


@pytest.mark.parametrize("kernel", KERNELS)
def test_tolerances_for_each_entry_and_for_each_segment(kernel):
    tested, reference = named(kernel), named("reference")
    y0, y1 = random((1200,), F64, 0), random((1200,), F64, 1)
    ks = [random((1200,), F64, 2 + i) for i in range(7)]
    spread = torch.rand(1200, dtype=F64, device=DEVICE) + 0.1
    for tolerance in (
        Tolerance(1e-3, spread),
        Tolerance(spread, 1e-3),
        Tolerance(spread, spread, (100, 1, 1099)),
        Tolerance(1e-3, 1e-3, (1, 1199)),
    ):
        arguments = (DOPRI5.solution_row, DOPRI5.error_rows, ks, tolerance)
        _, found = tested.finish(y0, y1, tested.prepare(0.1, y0), *arguments)
        _, expected = reference.finish(y0, y1, 0.1, *arguments)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
def test_gradients_of_a_sum(kernel, dtype):
    tested = named(kernel)
    y = random((3,), dtype, 0).requires_grad_()
    ks = [random((3,), dtype, 1 + i).requires_grad_() for i in range(6)]
    row = DOPRI5.stage_rows[-1]

    def f(y, *ks):
        return tested.combine(y, tested.prepare(0.7, y), row, ks)

    assert torch.autograd.gradcheck(f, (y, *ks))


def test_a_solve_goes_through_the_triton_kernels_and_counts_their_launches(monkeypatch):
    kernel = named("triton")
    launches = []
    launch = type(kernel).launch

    def counting(self, kernel, *arguments):
        launches.append(kernel.__name__ if hasattr(kernel, "__name__") else str(kernel))
        return launch(self, kernel, *arguments)

    monkeypatch.setattr(type(kernel), "launch", counting)
    problem = Circle(0.5)
    y0 = problem.y0.to(DEVICE)
    solver = ode_core.solvers.create("dopri5", kernel="triton")
    fused = solve(problem, y0, [0.0, 3.0], solver=solver, rtol=1e-8, atol=1e-8)
    steps = fused.stats.accepted + fused.stats.rejected
    # Six stage sums, the last of which is the new state, and one pass for error and norm.
    assert len(launches) == 7 * steps
    assert sum("finish" in name for name in launches) == steps
    plain = solve(problem, y0, [0.0, 3.0], solver="dopri5", rtol=1e-8, atol=1e-8)
    assert fused.stats == plain.stats
    assert torch.allclose(fused.ys, plain.ys, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_gradients_through_the_triton_kernel_equal_those_through_torch(gradient):
    def grads(kernel):
        problem = Circle(0.5)
        y0 = problem.y0.to(DEVICE).requires_grad_()
        solver = ode_core.solvers.create("tsit5", kernel=kernel)
        ys = solve(problem, y0, [0.0, 1.1, 2.0], solver=solver, gradient=gradient).ys
        return torch.autograd.grad(ys.square().sum(), y0)[0]

    assert torch.allclose(grads("triton"), grads("cpu"), rtol=1e-12)


def test_the_kernel_is_chosen_by_device_and_by_name():
    assert for_state(torch.zeros(1)).name == ("native" if available() else "cpu")
    assert for_state(torch.zeros(1, device="meta")).name == "cpu"
    assert ode_core.solvers.create("rk4", kernel="reference").kernel.name == "reference"
    with pytest.raises(ArgumentError, match="reference, cpu, native, triton"):
        ode_core.solvers.create("rk4", kernel="cuda")
    with pytest.raises(ArgumentError, match="a name or a Kernel"):
        ode_core.solvers.create("rk4", kernel=3)


def test_the_triton_kernel_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ArgumentError, match="needs a state on a CUDA device"):
        named("triton").prepare(0.1, torch.zeros(1))


def test_a_row_of_one_weight():
    for name in KERNELS:
        tested = named(name)
        y = random((9,), F64, 0)
        for table in (EULER, RK4):
            out = tested.combine(y, tested.prepare(2.0, y), table.solution_row, [y] * 4)
            assert torch.allclose(out, 3 * y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_states_go_through_triton_by_themselves():
    assert for_state(torch.zeros(1, device="cuda")).name == "triton"
