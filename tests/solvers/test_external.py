"""SciPy's solvers as wrappers: what they give, and that they say what they cannot."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import ode_core
from ode_core import FixedSteps, UnsupportedError, solve
from tests.problems import F64, lotka_volterra, oscillator

NAMES = {"scipy_radau": "Radau", "scipy_bdf": "BDF", "scipy_lsoda": "LSODA"}
every = pytest.mark.parametrize("name", NAMES)


class Counting:
    """A field that notes its times."""

    def __init__(self, f):
        self.f, self.times = f, []

    def __call__(self, t, y):
        self.times.append(t.item())
        return self.f(t, y)


def robertson(t, y):
    slow, fast = -0.04 * y[0] + 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return torch.stack([slow, -slow - fast, fast])


@every
def test_it_is_scipys_own_result_with_scipys_own_evaluations(name):
    y0 = torch.tensor([1.0, 1.0], dtype=F64)
    found = solve(lotka_volterra, y0, [0.0, 3.0], solver=name, rtol=1e-6, atol=1e-8)
    wanted = solve_ivp(lambda t, y: lotka_volterra(t, torch.tensor(y)).numpy(), (0.0, 3.0),
                       [1.0, 1.0], method=NAMES[name], rtol=1e-6, atol=1e-8)  # fmt: skip
    assert np.array_equal(found.ys[-1].numpy(), wanted.y[:, -1])
    # SciPy leaves the evaluations of a numerical Jacobian out of its count.
    assert wanted.nfev <= found.stats.f_calls <= wanted.nfev + 4 * wanted.njev


@every
def test_a_stiff_problem(name):
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    found = solve(robertson, y0, [0.0, 40.0], solver=name, rtol=1e-6, atol=1e-10)
    truth = torch.tensor([0.71582706871940509, 9.1855347645577639e-6, 0.28416374574583035])
    assert torch.allclose(found.ys[-1], truth.double(), rtol=1e-3, atol=1e-8)
    assert found.stats.f_calls < 1500
    assert "SciPy" in found.decided_by


@every
@pytest.mark.parametrize("times", [(0.0, 3.0), (3.0, 0.0)])
def test_every_evaluation_is_counted_and_lies_inside(name, times):
    f = Counting(lotka_volterra)
    y0 = torch.tensor([1.0, 1.0], dtype=F64)
    stats = solve(f, y0, list(times), solver=name, rtol=1e-6, atol=1e-8).stats
    assert stats.f_calls == len(f.times)
    assert min(f.times) >= 0.0
    assert max(f.times) <= 3.0


@every
def test_outputs_cost_nothing_and_a_jump_ends_a_stretch(name):
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    few = solve(oscillator, y0, [0.0, 10.0], solver=name)
    times = torch.linspace(0.0, 10.0, 101, dtype=F64)
    many = solve(oscillator, y0, times, solver=name, dense=True)
    assert many.stats.f_calls == few.stats.f_calls
    assert torch.allclose(many.interpolate(times), many.ys, atol=1e-12)
    truth = torch.stack([times.cos(), -times.sin()], -1)
    assert torch.allclose(many.ys, truth, atol=2e-3)
    kick = lambda t, y: torch.where(t < 1.0, 1.0, -2.0) * torch.ones_like(y)
    end = solve(kick, y0, [0.0, 2.0], solver=name, jump_times=[1.0])
    assert torch.allclose(end.ys[-1], y0 - 1.0, atol=1e-8)
    assert end.stats.accepted == 2


@every
def test_float32_states_and_tolerances_by_entry(name):
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float32)
    atol = torch.tensor([1e-6, 1e-5])
    rtol = torch.tensor([1e-5, 1e-4])
    found = solve(oscillator, y0, [0.0, 1.0], solver=name, rtol=rtol, atol=atol).ys[-1]
    assert found.dtype == torch.float32
    assert found.shape == (1, 2)
    assert torch.allclose(found, torch.tensor([[np.cos(1.0), -np.sin(1.0)]]).float(), atol=1e-3)


@every
def test_it_refuses_fixed_steps(name):
    with pytest.raises(UnsupportedError, match="takes no fixed steps"):
        solve(oscillator, torch.ones(2, dtype=F64), [0.0, 1.0], solver=name, dt=0.1,
              controller=FixedSteps())  # fmt: skip


@every
def test_it_refuses_complex_states(name):
    with pytest.raises(UnsupportedError, match="takes real states"):
        solve(lambda t, y: 1j * y, torch.ones(2, dtype=torch.complex128), [0.0, 1.0], solver=name)


@every
def test_it_refuses_a_device_that_is_not_the_cpu(name):
    solver = ode_core.solvers.create(name)
    with pytest.raises(UnsupportedError, match="runs on the CPU and the state is on meta"):
        solver.init(lambda t, y: y, 0.0, torch.ones(2, device="meta"))


@every
def test_it_refuses_gradients_that_it_would_lose(name):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    net = nn.Linear(2, 2).double()
    with pytest.raises(UnsupportedError, match="no gradient passes"):
        solve(oscillator, y0, [0.0, 1.0], solver=name)
    with pytest.raises(UnsupportedError, match="no gradient passes"):
        solve(lambda t, y: net(y), y0.detach(), [0.0, 1.0], solver=name)
    with pytest.raises(UnsupportedError, match="outside of torch"):
        solve(oscillator, y0, [0.0, 1.0], solver=name, gradient="checkpoint")
    with torch.no_grad():
        assert solve(lambda t, y: net(y), y0, [0.0, 1.0], solver=name).ys.isfinite().all()


@every
def test_a_solve_that_scipy_gives_up_says_so(name):
    blows_up = lambda t, y: y * y
    y0 = torch.ones(1, dtype=F64)
    with pytest.raises(ode_core.SolveError, match="stopped at t = "):
        solve(blows_up, y0, [0.0, 2.0], solver=name, max_steps=200)
    short = ode_core.solvers.create(name, most=3)
    with pytest.raises(ode_core.SolveError, match="max_steps"):
        solve(oscillator, torch.ones(2, dtype=F64), [0.0, 1e3], solver=short, max_steps=20)


def test_scipy_is_imported_by_these_alone():
    code = (
        "import sys, torch, ode_core\n"
        "ode_core.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])\n"
        "assert 'scipy' not in sys.modules\n"
        "ode_core.solvers.create('scipy_bdf')\n"
        "assert 'scipy' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@every
def test_the_record_says_what_it_cannot_do(name):
    record = ode_core.solvers[name]
    assert (record.differentiable, record.fixed_steps, record.per_sample) == (False, False, False)
    assert record.requires == (("scipy", "scipy>=1.11"),)
