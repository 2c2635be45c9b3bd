"""Going on from a state, running integrals, and what a dtype cannot hold."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, PIDController, PrecisionWarning, solve
from tests.problems import F64, lotka_volterra, oscillator

Y0 = torch.tensor([1.0, 0.5], dtype=F64)
TIGHT = dict(rtol=1e-9, atol=1e-9)
ONE_STEP = ["dopri5", "tsit5", "dopri8", "bosh3"]


@pytest.mark.parametrize("solver", ONE_STEP)
def test_a_stream_of_solves_costs_no_more_steps_than_one(solver):
    whole = solve(lotka_volterra, Y0, [0.0, 8.0], solver=solver, **TIGHT)
    state, calls, steps = None, 0, 0
    for k in range(4):
        y0 = Y0 if state is None else state
        part = solve(lotka_volterra, y0, [2.0 * k, 2.0 * k + 2], solver=solver, **TIGHT)
        state, calls = part.state, calls + part.stats.f_calls
        steps += part.stats.accepted + part.stats.rejected
    assert torch.allclose(state.y, whole.ys[-1], atol=1e-7)
    assert state.t == 8.0
    # The end of each part cuts at most one step; the first slope is evaluated anew.
    assert steps <= whole.stats.accepted + whole.stats.rejected + 3 * 2
    log = solve(lotka_volterra, state, [8.0, 9.0], solver=solver, record_steps=True, **TIGHT).steps
    assert log.dt[0].item() == pytest.approx(state.dt)


def test_an_observation_changes_the_state_and_keeps_the_step_size():
    first = solve(oscillator, Y0, [0.0, 2.0], **TIGHT)
    seen = first.state.with_y(torch.zeros(2, dtype=F64) + 0.1)
    second = solve(oscillator, seen, [2.0, 3.0], record_steps=True, **TIGHT)
    assert second.steps.dt[0].item() == pytest.approx(first.state.dt)
    fresh = solve(oscillator, seen.y, [2.0, 3.0], **TIGHT)
    assert torch.allclose(second.ys[-1], fresh.ys[-1], atol=1e-8)


def test_gradients_pass_through_the_state_until_it_is_detached():
    y0 = Y0.clone().requires_grad_()
    first = solve(oscillator, y0, [0.0, 1.0], **TIGHT)
    second = solve(oscillator, first.state, [1.0, 2.0], **TIGHT)
    whole = solve(oscillator, y0, [0.0, 2.0], **TIGHT)
    a, b = (torch.autograd.grad(s.ys[-1, 0], y0, retain_graph=True)[0] for s in (second, whole))
    assert torch.allclose(a, b, atol=1e-7)
    assert not solve(oscillator, first.state.detach(), [1.0, 2.0], **TIGHT).ys.requires_grad


def test_a_state_starts_at_its_own_time_only():
    state = solve(oscillator, Y0, [0.0, 1.0]).state
    with pytest.raises(ArgumentError, match=r"starts at its time, 1.0; got t\[0\] = 0.0"):
        solve(oscillator, state, [0.0, 2.0])


def test_a_failed_solve_leaves_no_state():
    blown = solve(lambda t, y: y * y, Y0, [0.0, 9.0], on_failure="return")
    assert blown.state is None


@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "rk4"])
@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_running_integrals_and_their_gradients(solver, gradient):
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    times = torch.tensor([0.0, 0.4, 0.5, 2.0], dtype=F64)
    options = dict(dt=0.02) if solver == "rk4" else TIGHT
    solution = solve(
        lambda t, y, k: -k * y, torch.ones(1, dtype=F64), times, args=(rate,), solver=solver,
        gradient=gradient, integrand=lambda t, y, k: (k * y).sum(), **options,
    )  # fmt: skip
    exact = 1 - torch.exp(-rate * times)
    assert torch.allclose(solution.integrals, exact, atol=1e-8)
    found, wanted = (
        torch.autograd.grad(x.sum(), rate)[0].item() for x in (solution.integrals, exact)
    )
    assert found == pytest.approx(wanted, abs=1e-7)


def test_integrals_ride_outside_of_error_control_and_backwards_in_time():
    plain = solve(oscillator, Y0, [2.0, 1.0, 0.0], **TIGHT)
    solution = solve(
        oscillator, Y0, [2.0, 1.0, 0.0], integrand=lambda t, y: 1e6 * torch.sin(50 * t), **TIGHT
    )
    assert solution.stats.f_calls == plain.stats.f_calls
    assert torch.equal(solution.ys, plain.ys)
    linear = solve(oscillator, Y0, [2.0, 1.0, 0.0], integrand=lambda t, y: y, **TIGHT).integrals
    change = solution.ys - Y0
    assert torch.allclose(linear[:, 1], change[:, 0], atol=1e-7)
    assert torch.allclose(linear[:, 0], -change[:, 1], atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "dt": 1e-3}, {"stepping": "per_sample"}])
def test_short_states_do_not_freeze(dtype, options):
    """Increments of 16-bit states round to nothing; a peer returns 0.996 for 1/e."""
    y0 = torch.ones(1, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        ys = solve(lambda t, y: -y, y0, [0.0, 1.0], **options).ys
    assert ys.dtype == dtype
    assert ys[-1].item() == pytest.approx(math.exp(-1), rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tolerance_below_what_the_dtype_holds_is_named(dtype):
    y0 = torch.ones(1, dtype=dtype)
    with pytest.warns(PrecisionWarning, match=rf"rtol=1e-09 is below .* that {dtype} can hold"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], rtol=1e-9, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        solve(lambda t, y: -y, y0.double(), [0.0, 1.0], rtol=1e-9, atol=1e-9)
        solve(lambda t, y: -y, y0, [0.0, 1.0], rtol=0.0, atol=1e-2)


def test_steps_lost_in_rounding_are_named():
    y0 = torch.full((1,), 3.0)
    with pytest.warns(PrecisionWarning, match="did not move in 20000 steps"):
        solve(lambda t, y: torch.ones_like(y), y0, [0.0, 1e-3], solver="euler", dt=5e-8)


def test_time_is_float64_whatever_the_state_is():
    """A million float32 seconds after the start, steps of a millisecond are still steps."""
    seen = []

    def f(t, y):
        seen.append(t)
        return torch.ones_like(y)

    t0 = 1e6
    ys = solve(f, torch.zeros(1), [t0, t0 + 1], solver="euler", dt=1e-3, time_dtype=F64).ys
    assert ys[-1].item() == pytest.approx(1.0, rel=1e-5)
    assert len({t.item() for t in seen}) == 1000


def test_least_and_greatest_steps():
    def steps(**limits):
        controller = PIDController(**limits)
        return solve(oscillator, Y0, [0.0, 5.0], controller=controller, record_steps=True).steps.dt

    assert steps(dt_max=0.01).max().item() <= 0.01 + 1e-12
    forced = steps(dt_min=0.5)
    assert forced[:-1].min().item() >= 0.5 - 1e-12
    with pytest.raises(ArgumentError, match="0 <= dt_min <= dt_max; got 2"):
        PIDController(dt_min=2.0, dt_max=1.0)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_least_step_does_not_accept_what_is_not_finite(stepping):
    options = dict(controller=PIDController(dt_min=0.1), stepping=stepping, on_failure="return")
    blown = solve(lambda t, y: y * math.inf, Y0[None], [0.0, 1.0], **options)
    assert blown.status in (ode_core.Status.NOT_FINITE, (ode_core.Status.NOT_FINITE,))


@pytest.mark.parametrize("controller", [None, PIDController(0.4, 0.3), FixedSteps()])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_an_interval_without_length_returns_the_start(controller, stepping):
    dt = 0.1 if isinstance(controller, FixedSteps) else None
    y0 = torch.ones(2, 3, dtype=F64)
    options = dict(controller=controller, dt=dt, stepping=stepping)
    ys = solve(lambda t, y: -y, y0, [1.0, 1.0, 1.0], **options).ys
    assert torch.equal(ys, y0.expand(3, 2, 3))
