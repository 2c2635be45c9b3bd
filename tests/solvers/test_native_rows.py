"""The C kernel with a step for each row: torch's sums to the bit, norms and outputs as good."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import solve
from ode_core.tolerance import SampleTolerance
from ode_solvers.kernels import native
from ode_solvers.kernels.choose import for_rows, named
from ode_solvers.kernels.native_rows import RowSlopes
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8
from tests.problems import F64

pytestmark = pytest.mark.skipif(not native.available(), reason="needs a C compiler")

SHAPES = [(128, 2), (1, 1), (5,), (7, 5, 3), (33, 600), (3, 1025), (600, 1)]
DTYPES = [torch.float32, F64]


def parts(table, shape, dtype):
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.randn(shape, dtype=dtype, generator=generator)
    h = torch.rand(shape[0], dtype=F64, generator=generator) - 0.3
    return h, draw(), [draw() for _ in range(len(table.with_end_rows()))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("table", [DOPRI5, DOPRI8], ids=lambda table: table.name)
def test_sums_equal_those_of_torch_to_the_bit_and_norms_to_their_last_digits(table, shape, dtype):
    tested, chain, reference = named("native"), named("cpu"), named("reference")
    h, y, ks = parts(table, shape, dtype)
    prepared = tested.prepare(h, y)
    assert type(prepared) is RowSlopes
    for row in (*table.stage_rows, table.solution_row):
        out = tested.combine(y, prepared, row, ks)
        assert torch.equal(out, chain.combine(y, chain.prepare(h, y), row, ks))
    arguments = (table.solution_row, table.error_rows, ks, SampleTolerance(1e-3, 1e-4))
    y1, norms = tested.finish(y, None, prepared, *arguments)
    for other in (chain, reference):
        same, expected = other.finish(y, None, other.prepare(h, y), *arguments)
        assert torch.allclose(y1, same, rtol=0.0, atol=1e-5 if dtype != F64 else 1e-13)
        for a, b in zip(norms, expected, strict=True):
            assert a.dtype == F64
            assert torch.allclose(a, b, rtol=1e-4 if dtype != F64 else 1e-11)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["state", "slope"])
@pytest.mark.parametrize("kernel", ["native", "cpu", "reference"])
def test_one_row_that_is_not_finite_is_refused_and_no_other(kernel, where, bad):
    tested = named(kernel)
    h, y, ks = parts(DOPRI5, (300, 3), torch.float32)
    y1 = y + 0.1
    (y1 if where == "state" else ks[0])[170, 1] = bad
    arguments = (DOPRI5.solution_row, DOPRI5.error_rows, ks, SampleTolerance(1e-3, 1e-3))
    _, (norm,) = tested.finish(y, y1, tested.prepare(h.abs(), y), *arguments)
    assert norm.isinf().nonzero()[:, 0].tolist() == [170]


def test_squares_that_overflow_are_no_infinite_error():
    h, y, ks = parts(DOPRI5, (4, 3), torch.float32)
    ks = [k * 1e22 for k in ks]
    arguments = (DOPRI5.solution_row, DOPRI5.error_rows, ks, SampleTolerance(1e-3, 1e-3))
    chain = named("cpu")
    _, (norm,) = chain.finish(y, y, chain.prepare(h, y), *arguments)
    wide = [k.double() for k in ks]
    arguments = (DOPRI5.solution_row, DOPRI5.error_rows, wide, SampleTolerance(1e-3, 1e-3))
    _, (expected,) = chain.finish(y.double(), y.double(), chain.prepare(h, y.double()), *arguments)
    assert norm.max().item() > 1e19
    assert torch.allclose(norm, expected, rtol=1e-5)


def layouts(y):
    wide = torch.zeros(*y.shape[:-1], 2 * y.shape[-1], dtype=y.dtype)
    wide[..., ::2] = y
    return {
        "contiguous": y,
        "channels_last": y.to(memory_format=torch.channels_last),
        "strided": wide[..., ::2],
        "batch inside": y.movedim(0, -1).contiguous().movedim(-1, 0),
    }


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "batch inside"])
def test_states_that_lie_otherwise(layout):
    tested, chain = named("native"), named("cpu")
    h, y, ks = parts(DOPRI5, (3, 4, 5, 2), F64)
    y = layouts(y)[layout]
    prepared = tested.prepare(h, y)
    assert (type(prepared) is RowSlopes) == (layout in ("contiguous", "channels_last"))
    out = tested.combine(y, prepared, DOPRI5.solution_row, ks)
    assert torch.equal(out, chain.combine(y, chain.prepare(h, y), DOPRI5.solution_row, ks))
    rows, theta = torch.tensor([2, 0, 2, 1]), torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=F64)
    given = (y, h, DOPRI5.dense, ks, rows, theta)
    assert torch.equal(tested.outputs(*given), chain.outputs(*given))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("table", [DOPRI5, DOPRI8], ids=lambda table: table.name)
def test_outputs_of_rows(table, dtype):
    h, y, ks = parts(table, (9, 4), dtype)
    ks += ks[: len(table.dense.a)]
    rows, theta = torch.tensor([8, 0, 8]), torch.tensor([0.3, 0.7, 1.0], dtype=F64)
    found = named("native").outputs(y, h, table.dense, ks, rows, theta)
    assert torch.equal(found, named("cpu").outputs(y, h, table.dense, ks, rows, theta))
    for place, (row, at) in enumerate(zip(rows.tolist(), theta.tolist(), strict=True)):
        weights = table.dense.weights(at)
        terms = [float(h[row]) * w * k[row].double() for w, k in zip(weights, ks, strict=True)]
        wanted = y[row].double() + sum(terms)
        assert torch.allclose(found[place].double(), wanted, atol=1e-5 if dtype != F64 else 1e-13)


def test_outputs_carry_the_gradient_of_what_is_recorded():
    h, y, ks = parts(DOPRI5, (3, 2), F64)
    ks = [k.requires_grad_() for k in ks]
    rows, theta = torch.tensor([2, 1]), torch.tensor([0.3, 0.7], dtype=F64)
    f = lambda y, *ks: for_rows(y).outputs(y, h, DOPRI5.dense, ks, rows, theta)
    assert torch.autograd.gradcheck(f, (y.requires_grad_(), *ks))


def van_der_pol(t, y):
    x, v, mu = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x, 0 * mu], -1)


@pytest.mark.parametrize("rtol", [1e-6, torch.tensor([1e-4, 1e-6, 1e-8])])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_solve_takes_the_same_steps_in_c_and_in_torch(dtype, rtol):
    mu = torch.tensor([0.5, 3.0, 20.0], dtype=dtype)
    y0 = torch.stack([torch.full_like(mu, 2.0), 0 * mu, mu], -1)
    times = torch.linspace(0, 5, 13, dtype=F64)

    def run(kernel, y0):
        solver = ode_core.solvers.create("dopri5", kernel=kernel)
        return solve(van_der_pol, y0, times, solver=solver, stepping="per_sample", rtol=rtol)

    c, chain = run("native", y0), run("cpu", y0)
    recorded = run("native", y0.clone().requires_grad_())
    for other in (chain, recorded):
        assert other.stats.accepted.tolist() == c.stats.accepted.tolist()
        assert torch.allclose(other.ys, c.ys, rtol=1e-3 if dtype != F64 else 1e-9, atol=1e-3)
    assert torch.equal(recorded.ys, c.ys)
