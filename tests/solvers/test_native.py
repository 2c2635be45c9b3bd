"""The C kernel: where it is used, where it steps aside, and what happens without a compiler."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ode_core
from ode_core import ArgumentError, PluginError, Tolerance, solve
from ode_solvers.kernels import build, choose, native
from ode_solvers.kernels.choose import named
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8
from tests.problems import F64

needs_compiler = pytest.mark.skipif(not native.available(), reason="needs a C compiler")


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def slopes(dtype=F64, shape=(7, 5)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, dtype=dtype, generator=generator) for _ in range(8)]


@pytest.fixture
def fresh():
    caches = (build.library, native._functions, choose.named, choose._for_cpu)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_without_a_compiler_torch_does_the_work(monkeypatch, fresh):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert choose.for_state(torch.zeros(3)).name == "cpu"
    ys = solve(lambda t, y: -y, torch.ones(3, dtype=F64), [0.0, 1.0]).ys
    assert torch.allclose(ys[-1], torch.full((3,), -1.0, dtype=F64).exp(), rtol=1e-4)
    with pytest.raises(PluginError, match="needs a C compiler"):
        named("native")


@needs_compiler
def test_a_compiler_that_fails_is_no_failure(monkeypatch, fresh, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    monkeypatch.setattr(build.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "made"))
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path / "other"))
    assert not native.available()
    assert not list((tmp_path / "made").iterdir())


@needs_compiler
def test_what_was_built_lies_in_the_cache_and_is_taken_from_there(monkeypatch, fresh, tmp_path):
    monkeypatch.setattr(build.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    assert native.available()
    (made,) = tmp_path.iterdir()
    before = made.stat().st_mtime_ns
    build.library.cache_clear()
    assert native.available()
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [before]


@needs_compiler
def test_a_folder_that_cannot_be_written_sends_it_to_another(monkeypatch, fresh, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "file"))
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path / "other"))
    assert native.available()
    assert len(list((tmp_path / "other").iterdir())) == 1


@needs_compiler
def test_a_solve_without_gradients_goes_through_c():
    y0 = torch.ones(5, dtype=F64)
    with torch.no_grad():
        assert type(named("native").prepare(0.1, y0)) is native.Slopes
    quick = solve(lambda t, y: -y, y0, [0.0, 1.0])
    slow = solve(
        lambda t, y: -y, y0, [0.0, 1.0], solver=ode_core.solvers.create("dopri5", kernel="cpu")
    )
    assert quick.stats == slow.stats
    assert torch.allclose(quick.ys, slow.ys, rtol=1e-14)


@needs_compiler
@pytest.mark.parametrize("what", ["state", "slope"])
def test_a_sum_that_is_recorded_is_made_by_torch(what):
    kernel, (y, *ks) = named("native"), slopes()
    (y if what == "state" else ks[3]).requires_grad_()
    out = kernel.combine(y, kernel.prepare(0.1, y), DOPRI5.stage_rows[-1], ks)
    assert out.requires_grad
    with torch.no_grad():
        again = kernel.combine(y, kernel.prepare(0.1, y), DOPRI5.stage_rows[-1], ks)
    assert not again.requires_grad
    assert torch.allclose(out, again, rtol=1e-14)


@needs_compiler
def test_it_steps_aside_where_an_operation_is_more_than_its_values():
    kernel, y = named("native"), torch.ones(4, dtype=F64)
    assert type(kernel.prepare(0.1, y)) is native.Slopes
    with Seen():
        assert kernel.prepare(0.1, y) == 0.1
    with torch.autograd.forward_ad.dual_level():
        assert kernel.prepare(0.1, y) == 0.1
    for other in (torch.ones(4, dtype=torch.complex128), torch.nn.Parameter(y), y[:0], y.half()):
        assert kernel.prepare(0.1, other) == 0.1
    seen = []
    torch.func.vmap(lambda x: seen.append(kernel.prepare(0.1, x)) or x)(y[:, None])
    assert seen == [0.1]


@needs_compiler
def test_a_large_state_is_left_to_the_threads_of_torch(monkeypatch):
    kernel, y = named("native"), torch.ones(32769)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert type(kernel.prepare(0.1, y)) is native.Slopes
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert kernel.prepare(0.1, y) == 0.1
    assert type(kernel.prepare(0.1, y[1:])) is native.Slopes


@needs_compiler
def test_slopes_that_lie_otherwise_are_copied_and_live_as_long_as_needed():
    kernel, (y, *ks) = named("native"), slopes()
    ks = [k.t().contiguous().t() for k in ks]
    h = kernel.prepare(0.3, y)
    for count in range(1, 7):
        # Fresh memory in between would overwrite a copy that nobody holds.
        torch.randn(7, 5, dtype=F64)
        row = DOPRI5.stage_rows[count - 1]
        out = kernel.combine(y, h, row, ks[:count])
        assert torch.allclose(out, named("reference").combine(y, 0.3, row, ks), rtol=1e-14)


@needs_compiler
def test_slopes_of_another_shape_dtype_or_device_are_not_read_as_they_lie():
    kernel, y = named("native"), torch.ones(3, 2)
    row = ((0, 2.0), (1, 1.0))
    with torch.no_grad():
        for other in (torch.ones(2), torch.ones(3, 2, dtype=F64), torch.ones(1, 1)):
            out = kernel.combine(y, kernel.prepare(1.0, y), row, [other, torch.ones(3, 2)])
            assert torch.equal(out, torch.full((3, 2), 4.0))
        with pytest.raises(RuntimeError, match="must match"):
            kernel.combine(y, kernel.prepare(1.0, y), row, [torch.ones(5, 2), y])
        with pytest.raises(ArgumentError, match="cpu; got one on meta"):
            kernel.combine(y, kernel.prepare(1.0, y), row, [torch.ones(3, 2, device="meta"), y])


@needs_compiler
def test_more_slopes_than_the_table_holds():
    kernel, y = named("native"), torch.ones(3, dtype=F64)
    ks = [torch.full((3,), float(i), dtype=F64) for i in range(40)]
    row = tuple((i, 1.0) for i in range(40))
    assert torch.allclose(kernel.combine(y, kernel.prepare(1.0, y), row, ks), y + sum(range(40)))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("table", [DOPRI5, DOPRI8], ids=["dopri5", "dopri8"])
def test_sums_are_those_of_torch_to_the_bit(table, dtype):
    for size in (1, 3, 8, 17, 100, 1001, 4096):
        generator = torch.Generator().manual_seed(size)
        y, *ks = torch.randn(20, size, dtype=dtype, generator=generator).unbind()
        for row in (*table.stage_rows, table.solution_row):
            kernels = [named(name) for name in ("native", "cpu")]
            a, b = (kernel.combine(y, kernel.prepare(-0.037, y), row, ks) for kernel in kernels)
            assert torch.equal(a, b)


@needs_compiler
@pytest.mark.parametrize("name", ["dopri5", "tsit5", "dopri8", "rk4", "adams_bashforth"])
def test_a_solve_is_the_same_with_and_without_gradients(name):
    y0 = torch.linspace(-1.0, 1.0, 2000).view(1000, 2)
    options = {"dt": 0.1} if name == "rk4" else {}

    def field(t, y):
        return torch.stack([y[:, 1], -y[:, 0].sin()], 1) + 0.1 * t

    found = [
        solve(field, y0.clone().requires_grad_(wanted), [0.0, 0.7, 2.0], solver=name, **options)
        for wanted in (True, False)
    ]
    assert torch.equal(*(solution.ys for solution in found))


@needs_compiler
@pytest.mark.parametrize("size", [1, 15, 16, 17, 511, 512, 513, 1025])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_norms_of_every_size(size, dtype):
    y0, *ks = slopes(dtype, (size,))
    y1 = y0 + 0.1
    given = (DOPRI5.solution_row, DOPRI5.error_rows, ks, Tolerance(1e-2, 1e-3))
    _, (found,) = named("native").finish(y0, y1, named("native").prepare(0.1, y0), *given)
    _, (wanted,) = named("reference").finish(y0, y1, 0.1, *given)
    assert found == pytest.approx(wanted, rel=1e-13 if dtype == F64 else 1e-5)
