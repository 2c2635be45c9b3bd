"""The front door: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

import math
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, PIDController, SolveError, Status, solve
from tests.problems import F64, Circle, oscillator

Y0 = torch.tensor([1.0, 0.0], dtype=F64)


def decay(t, y):
    return -y


def test_default_call_solves_to_its_tolerance():
    solution = solve(oscillator, Y0, torch.linspace(0, 10, 21))
    exact = torch.stack([solution.ts.cos(), -solution.ts.sin()], -1)
    assert solution.ys.shape == (21, 2)
    assert (solution.ys - exact).abs().max() < 2e-4
    assert solution.status is Status.SUCCESS
    assert "fourth-order" in solution.decided_by
    assert "root mean square" in solution.decided_by


@pytest.mark.parametrize("t", [[0.0, 1.0], (0, 1), np.array([0.0, 1.0]), torch.tensor([0, 1])])
def test_times_are_taken_from_lists_arrays_and_tensors(t):
    assert solve(decay, Y0, t).ys[-1, 0].item() == pytest.approx(math.exp(-1), abs=1e-5)


def test_one_time_returns_the_state_and_equal_times_the_same_state():
    assert torch.equal(solve(decay, Y0, [3.0]).ys, Y0[None])
    ys = solve(decay, Y0, [0.0, 0.0, 1.0, 1.0]).ys
    assert torch.equal(ys[0], Y0)
    assert torch.equal(ys[1], Y0)
    assert torch.equal(ys[2], ys[3])
    assert torch.equal(solve(decay, Y0, [2.0, 2.0]).ys, torch.stack([Y0, Y0]))


def test_an_empty_batch_returns_at_once():
    calls = []

    def f(t, y):
        calls.append(t)
        return -y

    ys = solve(f, torch.zeros(0, 3), [0.0, 1.0]).ys
    assert ys.shape == (2, 0, 3)
    assert calls == []


State = namedtuple("State", "q v")


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_structured_states_equal_the_flat_one(gradient):
    q, v = torch.tensor([[1.0, 2.0]], dtype=F64), torch.tensor([0.5, 0.0], dtype=F64)

    def f(t, s):
        return State(s.v[None], -s.q[0])

    solution = solve(f, State(q, v), [0.0, 1.0], gradient=gradient, rtol=1e-9, atol=1e-9)
    assert isinstance(solution.ys, State)
    assert solution.ys.q.shape == (2, 1, 2)
    exact = q[0] * math.cos(1) + v * math.sin(1)
    assert torch.allclose(solution.ys.q[-1, 0], exact, atol=1e-8)
    nested = {"a": [q, v]}
    doubled = solve(lambda t, s: {"a": [s["a"][1][None], -s["a"][0][0]]}, nested, [0.0, 1.0])
    assert torch.allclose(doubled.ys["a"][0][-1, 0], exact, atol=1e-4)


def test_complex_states_turn():
    y0 = torch.tensor([1.0 + 0.0j, 0.0 + 2.0j], dtype=torch.complex128)
    times = []

    def f(t, y):
        times.append(t.dtype)
        return 1j * y

    ys = solve(f, y0, [0.0, 1.0], rtol=1e-10, atol=1e-10).ys
    assert torch.allclose(ys[-1], y0 * complex(math.cos(1), math.sin(1)), atol=1e-9)
    assert set(times) == {F64}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_f_sees_time_in_the_states_dtype_and_the_result_keeps_it(dtype):
    seen = set()

    def f(t, y):
        seen.add((t.dtype, t.dim()))
        return -y

    solution = solve(f, torch.ones(3, dtype=dtype), [0.0, 1.0], rtol=1e-2, atol=1e-2)
    assert seen == {(dtype, 0)}
    assert solution.ys.dtype == dtype
    assert solution.ys[-1, 0].item() == pytest.approx(math.exp(-1), abs=2e-2)


def test_time_dtype_is_what_f_sees():
    seen = set()

    def f(t, y):
        seen.add(t.dtype)
        return -y

    solve(f, torch.ones(2), [0.0, 1.0], time_dtype=F64)
    assert seen == {F64}


def test_args_are_handed_on_and_get_gradients():
    rate = torch.tensor(2.0, dtype=F64, requires_grad=True)
    for gradient in ("direct", "checkpoint", "adjoint"):
        y = solve(
            lambda t, y, k: -k * y, Y0, [0.0, 1.0], args=(rate,), gradient=gradient, rtol=1e-9,
            atol=1e-9,
        ).ys[-1, 0]  # fmt: skip
        (grad,) = torch.autograd.grad(y, rate)
        assert grad.item() == pytest.approx(-math.exp(-2), rel=1e-6)


def test_tolerances_may_be_given_for_each_entry():
    y0 = torch.ones(2, dtype=F64)
    rates = torch.tensor([1.0, 1.0], dtype=F64)
    f = lambda t, y: -rates * y * (1 + y)
    loose = solve(f, y0, [0.0, 3.0], rtol=1e-3, atol=1e-3).stats.f_calls
    tight = solve(f, y0, [0.0, 3.0], rtol=1e-8, atol=1e-8).stats.f_calls
    mixed = solve(f, y0, [0.0, 3.0], rtol=torch.tensor([1e-3, 1e-8]), atol=1e-8).stats.f_calls
    assert loose < mixed <= tight
    pair = solve(
        lambda t, s: (-s[0], -s[1]), (y0, y0), [0.0, 3.0], rtol=(1e-3, 1e-8), atol=(1e-3, 1e-8)
    )
    assert pair.ys[1][-1, 0].item() == pytest.approx(math.exp(-3), abs=1e-6)


def test_nothing_of_the_users_is_written_to():
    y0, t = torch.ones(3), torch.tensor([0.0, 1.0])
    model = torch.nn.Linear(3, 3)
    before = [p.clone() for p in model.parameters()]
    versions = (y0._version, t._version)
    state = torch.get_rng_state()
    solve(lambda t, y: model(y), y0, t)
    assert (y0._version, t._version) == versions
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_solutions_and_solvers_can_be_pickled():
    solver = ode_core.solvers.create("dopri8")
    again = pickle.loads(pickle.dumps(solver))
    assert again.tableau == solver.tableau
    solution = solve(oscillator, Y0, [0.0, 2.0], solver=again, dense=True)
    copy = pickle.loads(pickle.dumps(solution))
    assert torch.equal(copy.interpolate(1.3), solution.interpolate(1.3))


BAD = [
    (dict(f=3), "f is a callable"),
    (dict(y0="x"), "y0 is a tensor"),
    (dict(y0=torch.tensor([1, 2])), r"use y0\.float\(\)"),
    (dict(y0=torch.tensor([1.0, float("nan")])), "y0 holds NaN"),
    (dict(y0=(torch.ones(2), torch.ones(2, dtype=F64))), "share one dtype"),
    (dict(y0=()), "holds nothing"),
    (dict(t=[0.0, 2.0, 1.0]), "runs one way"),
    (dict(t=[[0.0, 1.0]]), r"one-dimensional; got shape \(1, 2\)"),
    (dict(t=[]), "at least one time"),
    (dict(t=[0.0, float("inf")]), "not finite"),
    (dict(t="soon"), "t is a tensor or a list"),
    (dict(f=lambda t, y: y[:1]), r"shape of y0, \(2,\); got \(1,\)"),
    (dict(f=lambda t, y: y.float()), "returns the dtype of the state"),
    (dict(f=lambda t, y: None), "what f returns is a tensor"),
    (dict(f=lambda t, y: (y, y)), "what f returns is a tensor"),
    (dict(f=lambda t, y: y.mul_(2.0)), "wrote into the state"),
    (dict(solver="dopri4"), "did you mean"),
    (dict(gradient="adjiont"), "did you mean 'adjoint'"),
    (dict(solver=3), "solver is a registered name or an object"),
    (dict(gradient=3), "gradient is a registered name or an object"),
    (dict(solver="rk4", dt=0.1, rtol=1e-3), "no effect on rk4 with fixed steps"),
    (dict(solver="rk4"), "rk4 takes fixed steps: pass dt"),
    (dict(solver="rk4", dt=-0.1), "dt is a positive number"),
    (dict(solver="rk4", controller=PIDController()), "no error estimate for a controller"),
    (dict(dt=0.1, controller=FixedSteps(grid=[0.0, 1.0])), "but not both"),
    (dict(controller=FixedSteps(grid=[0.0, 2.0])), "runs from 0.0 to 2.0"),
    (dict(rtol=-1.0), "rtol is a number from 0"),
    (dict(rtol=torch.ones(3)), r"broadcasts to \(2,\)"),
    (dict(args=3), "args is a tuple"),
    (dict(max_steps=0), "max_steps is a whole number from 1"),
    (dict(on_failure="ignore"), "'raise' or 'return'"),
    (dict(time_dtype=torch.int64), "time_dtype is a floating-point dtype"),
    (dict(jump_times=[[1.0]]), "jump_times is one-dimensional"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_arguments_are_one_sentence(change, said):
    arguments = {"f": decay, "y0": Y0, "t": [0.0, 1.0]} | change
    with pytest.raises((ArgumentError, ode_core.UnknownNameError), match=said) as caught:
        solve(**arguments)
    assert "\n" not in str(caught.value)


def test_an_f_that_reuses_its_buffer_is_refused():
    buffer = torch.empty(2, dtype=F64)
    with pytest.raises(ArgumentError, match="returned before"):
        solve(lambda t, y: torch.neg(y, out=buffer), Y0, [0.0, 1.0])


def test_an_f_that_returns_the_same_constant_is_fine():
    constant = torch.ones(2, dtype=F64)
    ys = solve(lambda t, y: constant, Y0, [0.0, 2.0]).ys
    assert torch.allclose(ys[-1], Y0 + 2)


def test_what_cannot_be_finished_raises_with_where_and_why():
    with pytest.raises(
        SolveError, match=r"dopri5 stopped at t = 1 on the way from 0 to 2.*too small"
    ):
        solve(lambda t, y: y * y, torch.ones(1, dtype=F64), [0.0, 2.0])
    with pytest.raises(SolveError, match="max_steps") as caught:
        solve(oscillator, Y0, [0.0, 1.0, 100.0], max_steps=20)
    partial = caught.value.solution
    assert torch.isfinite(partial.ys[1]).all()
    assert torch.isnan(partial.ys[2]).all()
    assert partial.stats.accepted + partial.stats.rejected == 20


def test_on_failure_return_gives_the_status():
    solution = solve(oscillator, Y0, [0.0, 100.0], max_steps=5, on_failure="return")
    assert solution.status is Status.MAX_STEPS
    assert torch.isnan(solution.ys[-1]).all()


@pytest.mark.parametrize("options", [dict(solver="euler", dt=0.1), dict()])
def test_values_that_are_not_finite_are_never_returned_as_a_success(options):
    f = lambda t, y: torch.where(t > 0.5, float("nan"), -y)
    times = [0.0, 0.25, 1.0]
    with pytest.raises(SolveError, match="not finite"):
        solve(f, Y0, times, **options)
    solution = solve(f, Y0, times, on_failure="return", **options)
    assert solution.status is Status.NOT_FINITE
    assert torch.isfinite(solution.ys[1]).all()
    assert torch.isnan(solution.ys[2]).all()


def test_record_steps_tells_every_attempt():
    problem = Circle(0.5)
    solution = solve(problem, problem.y0, [0.0, 3.0], record_steps=True, dt=1.0)
    steps = solution.steps
    assert len(steps.t) == solution.stats.accepted + solution.stats.rejected
    assert int(steps.accepted.sum()) == solution.stats.accepted
    assert solution.stats.rejected > 0
    assert bool((steps.error[steps.accepted] <= 1).all())
    assert bool((steps.error[~steps.accepted] > 1).all())
    kept = steps.accepted
    assert torch.allclose((steps.t + steps.dt)[kept][:-1], steps.t[kept][1:], atol=1e-14)


def test_autocast_may_return_a_narrower_slope():
    net = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys = solve(lambda t, y: net(y), torch.ones(2, 4), [0.0, 1.0], rtol=1e-2, atol=1e-2).ys
    assert ys.dtype == torch.float32


def test_inference_mode_works():
    with torch.inference_mode():
        y = solve(decay, torch.ones(2), [0.0, 1.0]).ys[-1, 0].item()
    assert y == pytest.approx(math.exp(-1), abs=1e-4)


def test_a_fixed_step_solve_that_overflows_is_nan_after_it():
    f = lambda t, y: y * 1e200
    y0 = torch.full((1,), 1e120, dtype=F64)
    times = [0.0, 1.0, 2.0]
    solution = solve(f, y0, times, solver="euler", dt=1.0, on_failure="return")
    assert solution.status is Status.NOT_FINITE
    assert torch.isnan(solution.ys[1:]).all()
