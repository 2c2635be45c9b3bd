"""Edges: jumps on the ends, dense output at events, structures by their keys, odd numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import ode_core
from ode_core import ArgumentError, Control, Event, FixedSteps, solve
from tests.problems import F64, oscillator

Y0 = torch.tensor([1.0, 0.0], dtype=F64)
TIGHT = dict(rtol=1e-9, atol=1e-9)


def fall(t, y):
    return torch.stack([y[..., 1], torch.full_like(y[..., 1], -9.81)], -1)


def flip(t, y):
    return torch.stack([torch.zeros_like(y[..., 0]), -0.8 * y[..., 1]], -1)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.0]])
@pytest.mark.parametrize(
    "options", [{}, {"solver": "rk4", "dt": 0.1}, {"solver": "euler", "dt": 0.3}]
)
def test_a_jump_on_an_end_is_met_from_the_inner_side(stepping, times, options):
    def f(t, y):
        return (100.0 * (t >= 1)).reshape(-1, 1).to(y.dtype).expand_as(y)

    y0 = torch.zeros(1, 1, dtype=F64)
    solution = solve(f, y0, times, jump_times=[1.0], stepping=stepping, **options)
    assert solution.ys[-1].item() == 0.0
    if options:
        assert int(solution.stats.accepted) == math.ceil(1 / options["dt"])


def test_given_grids_keep_their_ends_at_jumps():
    f = lambda t, y: torch.where((t > 0.0) & (t < 1.0), 1.0, 100.0).to(y.dtype).expand_as(y)
    grid = FixedSteps([0.0, 0.5, 1.0])
    y = solve(f, torch.zeros(1, dtype=F64), [0.0, 1.0], solver="heun", controller=grid,
              jump_times=[0.0, 1.0]).ys[-1]  # fmt: skip
    assert y.item() == pytest.approx(1.0)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_a_held_input_has_no_part_in_what_comes_before_its_last_knot(gradient):
    values = torch.ones(3, dtype=F64, requires_grad=True)
    control = Control([0.0, 1.0, 2.0], values, "hold")
    y = solve(lambda t, y: control(t).expand_as(y), torch.zeros(1, dtype=F64), [0.0, 2.0],
              gradient=gradient).ys[-1]  # fmt: skip
    (grad,) = torch.autograd.grad(y.sum(), values)
    assert grad.tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_dense_output_passes_resets(stepping):
    rows = stepping == "per_sample"
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64) if rows else Y0
    times = torch.linspace(0, 2, 33, dtype=F64)
    bounce = Event(lambda t, y: y[..., 0], direction=-1, reset=flip)
    solution = solve(fall, y0, times, event=bounce, dense=True, stepping=stepping, **TIGHT)
    assert torch.allclose(solution.interpolate(times), solution.ys, atol=1e-12)


def test_dense_output_ends_where_the_event_does():
    solution = solve(fall, Y0, [0.0, 2.0], event=Event(lambda t, y: y[0]), dense=True)
    end = solution.event.t.item()
    assert torch.allclose(solution.interpolate(end), solution.event.y)
    with pytest.raises(ArgumentError, match=r"t = 0.9 lies outside of the solve, which ran from 0"):
        solution.interpolate(0.9)


@pytest.mark.parametrize("times", [[3.0], [3.0, 3.0]])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_dense_output_of_no_time_is_the_start(times, stepping):
    y0 = torch.ones(2, 3, dtype=F64)
    solution = solve(lambda t, y: -y, y0, times, dense=True, stepping=stepping)
    assert torch.equal(solution.interpolate(3.0), y0)
    assert solution.interpolate([]).shape == (0, 2, 3)
    with pytest.raises(ArgumentError, match="outside of the solve"):
        solution.interpolate(3.1)


def test_dicts_go_by_their_keys():
    y0 = {"b": torch.ones(1, dtype=F64), "a": torch.ones(1, dtype=F64)}
    f = lambda t, s: {"a": -50 * (s["a"] - t.cos()), "b": -s["b"]}
    tight_a = solve(f, y0, [0.0, 3.0], rtol={"a": 1e-9, "b": 1e-2}, atol={"b": 1e-2, "a": 1e-9})
    tight_b = solve(f, y0, [0.0, 3.0], rtol={"a": 1e-2, "b": 1e-9}, atol=1e-3)
    exact = math.exp(-3)
    assert tight_a.stats.f_calls > 2 * tight_b.stats.f_calls
    assert tight_b.ys["b"][-1].item() == pytest.approx(exact, abs=1e-3)
    with pytest.raises(ArgumentError, match=r"rtol has the structure of y0, \{'b': ., 'a': .\}"):
        solve(f, y0, [0.0, 3.0], rtol={"a": 1e-9, "c": 1e-3})
    with pytest.raises(
        ArgumentError, match=r"what f returns has the structure of y0, .* got \(., .\)"
    ):
        solve(lambda t, s: (s["a"], s["b"]), y0, [0.0, 3.0])


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_going_on_from_an_event_keeps_the_gradient_of_its_time(stepping):
    rows = stepping == "per_sample"

    def end(speed):
        y0 = torch.stack([torch.zeros_like(speed), speed])
        y0 = y0[None] if rows else y0
        options = dict(stepping=stepping, **TIGHT)
        first = solve(fall, y0, [0.0, 9.0], event=Event(lambda t, y: y[..., 0]), **options)
        state = first.state.with_y(flip(None, first.state.y))
        t = state.t
        times = torch.stack([t, torch.full_like(t, 4.0)], 1) if rows else [t, 4.0]
        return solve(fall, state, times, **options).ys[-1].reshape(-1)[0]

    speed = torch.tensor(10.0, dtype=F64, requires_grad=True)
    (found,) = torch.autograd.grad(end(speed), speed)
    with torch.no_grad():
        wanted = (end(speed + 1e-5) - end(speed - 1e-5)) / 2e-5
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_function_that_jumps_over_zero_is_an_event_too():
    event = Event(lambda t, y: torch.sign(y[0] - 0.5))
    solution = solve(lambda t, y: -y, torch.ones(1, dtype=F64), [0.0, 3.0], event=event, **TIGHT)
    assert solution.event.t.item() == pytest.approx(math.log(2), abs=1e-8)
    for fn, words in (
        (lambda t, y: y[0] > 0.5, "torch.bool"),
        (lambda t, y: y[0] * math.nan, "NaN"),
    ):
        with pytest.raises(ArgumentError, match=words):
            solve(lambda t, y: -y, torch.ones(1, dtype=F64), [0.0, 3.0], event=Event(fn))
    rows = dict(event=Event(lambda t, y: y[:, 0] * math.nan), stepping="per_sample")
    with pytest.raises(ArgumentError, match="NaN for sample 0"):
        solve(lambda t, y: -y, torch.ones(2, 1, dtype=F64), [0.0, 3.0], **rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rtol": torch.tensor([-1.0, 1.0])}, "rtol holds numbers from 0"),
        ({"rtol": torch.tensor([math.nan, 1.0])}, "rtol holds numbers from 0"),
        ({"rtol": 0.0, "atol": 0.0}, "rtol and atol are both 0"),
        ({"max_steps": 2.5}, "max_steps is a whole number"),
        ({"dt": True}, "dt is a positive number"),
    ],
)
def test_odd_numbers_are_refused(options, words):
    with pytest.raises(ArgumentError, match=words):
        solve(oscillator, Y0, [0.0, 1.0], **options)


def test_numpys_numbers_are_numbers():
    plain = solve(oscillator, Y0, [0.0, 1.0], rtol=1e-4, dt=0.125).ys
    options = dict(rtol=np.float64(1e-4), dt=np.float32(0.125))
    assert torch.equal(solve(oscillator, Y0, [0.0, 1.0], **options).ys, plain)


def test_a_first_step_that_the_clock_cannot_tell_is_lengthened():
    late = [1e6, 1e6 + 1]
    solution = solve(lambda t, y: -y, torch.ones(1, dtype=F64), late, dt=1e-12)
    assert solution.ys[-1].item() == pytest.approx(math.exp(-1), abs=1e-4)


@pytest.mark.parametrize(
    ("gradient", "stepping"),
    [
        (gradient, stepping)
        for gradient in sorted(ode_core.gradients)
        for stepping in ("shared", "per_sample")
        # The one method that takes shared steps only.
        if (gradient, stepping) != ("forward", "per_sample")
    ],
)
def test_an_empty_batch_has_a_gradient_of_its_shape(gradient, stepping):
    layer, y0 = torch.nn.Linear(3, 3), torch.zeros(0, 3, requires_grad=True)
    solver = "reversible_dopri5" if gradient == "reversible" else "dopri5"
    ys = ode_core.solve(
        lambda t, y: layer(y), y0, [0.0, 0.5, 1.0],
        solver=solver, gradient=gradient, stepping=stepping,
    ).ys  # fmt: skip
    assert ys.shape == (3, 0, 3)
    (grad,) = torch.autograd.grad(ys.sum(), y0)
    assert grad.shape == (0, 3)
