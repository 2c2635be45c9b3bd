"""Steps of samples taken back, each sample's own: exact, in constant memory, or refused."""

from __future__ import annotations

import math

import pytest
import torch

from ode_core import SolveError, solve
from ode_solvers import Reversible
from tests.problems import F64
from tests.solvers.test_sample_adjoints import PER_SAMPLE, TIMES, gradients, off

NAN = math.nan
SOLVERS = {
    "alf": {"solver": "alf", "dt": 0.03},
    "reversible_heun": {"solver": "reversible_heun", "dt": 0.03},
    "rk4": {"solver": Reversible("rk4"), "dt": 0.1},
    "dopri5": {"solver": Reversible("dopri5"), "rtol": 1e-6, "atol": 1e-6},
}
every = pytest.mark.parametrize("options", SOLVERS.values(), ids=SOLVERS)


@every
def test_the_gradient_is_that_of_the_direct_solve(options):
    given = {"rtol": None, "atol": None} | options
    found, solution = gradients("reversible", **given)
    assert off(found, gradients("direct", **given)[0]) < 1e-10
    assert solution.stats.backward_f_calls > 0


@every
def test_histories_begin_anew_at_jumps(options):
    jumps = torch.tensor([[0.7, 1.1], [0.7, NAN], [NAN, NAN], [NAN, NAN]], dtype=F64)
    given = {"rtol": None, "atol": None, "kick": 0.7, "jump_times": jumps} | options
    found, _ = gradients("reversible", **given)
    assert off(found, gradients("direct", **given)[0]) < 1e-10


@every
def test_samples_that_leave_the_batch(options):
    """f takes any number of rows here, and those that have finished are dropped."""
    rate = torch.tensor([[0.0, 1.0], [-1.0, 0.1]], dtype=F64, requires_grad=True)
    seen = set()

    def run(gradient):
        y0 = torch.linspace(-1.0, 1.0, 8, dtype=F64).view(4, 2).requires_grad_()

        def f(t, y):
            seen.add(len(y))
            return torch.sin(y @ rate.T + t[:, None])

        ys = solve(f, y0, TIMES, gradient=gradient, **PER_SAMPLE, **options).ys
        return torch.autograd.grad(torch.where(ys.isnan(), 0.0, ys).square().sum(), [y0, rate])

    assert off(run("reversible"), run("direct")) < 1e-10
    assert min(seen) < 4


@pytest.mark.parametrize("solver", ["alf", "dopri5"])
def test_a_sample_that_fails_leaves_the_others_gradients(solver):
    def run(gradient):
        rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0], [0.1]], dtype=F64, requires_grad=True)
        solution = solve(lambda t, y: rate * y * y, y0, [0.0, 5.0], gradient=gradient,
                         on_failure="return", **PER_SAMPLE, **SOLVERS[solver])  # fmt: skip
        assert [x.failed for x in solution.status] == [True, False]
        return torch.autograd.grad(solution.ys[-1, 1].sum(), [rate, y0])

    rate, start = run("reversible")
    assert rate.item() == pytest.approx(0.01 * 5 / 0.5**2, rel=1e-2)
    assert start[:, 0].tolist() == pytest.approx([0.0, 1 / 0.5**2], rel=1e-2)


def test_a_sample_without_a_gradient_stays_out_of_it():
    """Taken back from its end it comes to 1 at the start, from anywhere else to infinity."""
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.1]], dtype=F64)
    ys = solve(lambda t, y: -rate * y * y, y0, [0.0, 5.0], solver="alf", dt=0.02,
               gradient="reversible", **PER_SAMPLE).ys  # fmt: skip
    (found,) = torch.autograd.grad(ys[-1, 1].sum(), rate)
    assert found.item() == pytest.approx(-0.01 * 5 / 1.5**2, rel=1e-4)


def test_a_sample_that_cannot_be_taken_back_is_named():
    rates = torch.tensor([[-0.1], [-4.0], [-4.0]], dtype=F64, requires_grad=True)
    y0 = torch.ones(3, 2, dtype=F64)

    def run(row):
        ys = solve(lambda t, y: rates * y, y0, [0.0, 10.0], solver="alf", dt=0.05,
                   gradient="reversible", **PER_SAMPLE).ys  # fmt: skip
        return torch.autograd.grad(ys[-1, row].sum(), rates)[0]

    assert run(0)[0].item() == pytest.approx(20 * math.exp(-1), rel=1e-3)
    with pytest.raises(SolveError, match="could not be taken back for sample 1: at t = "):
        run(1)
    with pytest.raises(SolveError, match=r"could not be taken back for sample 1 \(and 1 more\)"):
        run(slice(None))
