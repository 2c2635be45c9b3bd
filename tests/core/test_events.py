"""Events: found, not missed, differentiated, and what they leave."""

from __future__ import annotations

import math

import pytest
import torch

from ode_core import ArgumentError, Event, FixedSteps, Status, solve
from tests.problems import F64, oscillator

GRAVITY = 9.81
TIGHT = dict(rtol=1e-9, atol=1e-9)


def fall(t, y):
    return torch.stack([y[..., 1], torch.full_like(y[..., 1], -GRAVITY)], -1)


def flip(t, y):
    return torch.stack([torch.zeros_like(y[..., 0]), -0.8 * y[..., 1]], -1)


GROUND = Event(lambda t, y: y[..., 0])
BOUNCE = Event(lambda t, y: y[..., 0], direction=-1, reset=flip)


def test_a_ball_thrown_from_the_ground_lands_and_does_not_start_landed():
    y0 = torch.tensor([0.0, 10.0], dtype=F64)
    solution = solve(fall, y0, [0.0, 1.0, 9.0], event=GROUND)
    assert solution.event.t.item() == pytest.approx(2 * 10 / GRAVITY, abs=1e-9)
    assert solution.event.y.tolist() == pytest.approx([0.0, -10.0], abs=1e-8)
    assert solution.status is Status.EVENT
    assert solution.ys[1, 0].item() == pytest.approx(10 - GRAVITY / 2)
    assert bool(solution.ys[2].isnan().all())
    assert solution.event is solution.events[-1]


@pytest.mark.parametrize("of_time", [False, True])
@pytest.mark.parametrize("dt", [None, 0.1, 0.5, 1.0])
def test_two_zeros_close_together_inside_a_step_are_not_missed(of_time, dt):
    """sin t passes 0.9995 at 1.5392 and is back at 1.6024; steps at this tolerance are longer."""
    fn = (lambda t, y: torch.sin(t) - 0.9995) if of_time else (lambda t, y: y[0] - 0.9995)
    solution = solve(lambda t, y: torch.cos(t).expand_as(y), torch.zeros(1, dtype=F64),
                     [0.0, 100.0], rtol=1e-3, atol=1e-3, dt=dt, event=Event(fn))  # fmt: skip
    # An error of 1e-3 in the state is one of 0.03 in the time at this slope.
    slack = 1e-9 if of_time else 0.03
    assert solution.event.t.item() == pytest.approx(math.asin(0.9995), abs=slack)


def test_direction_is_that_of_the_solve():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    zero = lambda direction: Event(lambda t, y: y[0], direction=direction)
    t = lambda direction, end: solve(oscillator, y0, [0.0, end], event=zero(direction), **TIGHT)
    assert t(-1, 9.0).event.t.item() == pytest.approx(math.pi / 2, abs=1e-7)
    assert t(1, 9.0).event.t.item() == pytest.approx(3 * math.pi / 2, abs=1e-7)
    assert t(0, 9.0).event.t.item() == pytest.approx(math.pi / 2, abs=1e-7)
    assert t(1, -9.0).event.t.item() == pytest.approx(-3 * math.pi / 2, abs=1e-7)


def test_events_that_stop_nothing_are_all_recorded_in_order():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    events = [
        Event(lambda t, y: y[0], terminal=False),
        Event(lambda t, y: y[1], terminal=False, direction=1),
    ]
    times = torch.linspace(0, 10, 5, dtype=F64)
    solution = solve(oscillator, y0, times, event=events, **TIGHT)
    assert solution.status is Status.SUCCESS
    assert solution.event is None
    found = [(o.event, o.t.item()) for o in solution.events]
    quarters = [(0, 1), (1, 2), (0, 3), (0, 5), (1, 6)]
    assert [event for event, _ in found] == [event for event, _ in quarters]
    assert [t for _, t in found] == pytest.approx([q * math.pi / 2 for _, q in quarters], abs=1e-7)
    plain = solve(oscillator, y0, times, **TIGHT)
    assert torch.equal(plain.ys, solution.ys)
    assert plain.stats.f_calls == solution.stats.f_calls


def test_the_first_of_several_events_stops():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    late, soon = Event(lambda t, y: t - 2.0), Event(lambda t, y: t - 0.25)
    solution = solve(oscillator, y0, [0.0, 5.0], event=[late, soon])
    assert solution.event.event == 1
    assert solution.event.t.item() == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_gradients_of_event_time_and_state(gradient, solver):
    speed = torch.tensor(10.0, dtype=F64, requires_grad=True)
    height = torch.tensor(0.5, dtype=F64, requires_grad=True)
    options = TIGHT if solver == "dopri5" else dict(dt=0.01)
    y0 = torch.stack([torch.zeros_like(speed), speed])
    event = Event(lambda t, y: y[0] - height, direction=-1)
    solution = solve(fall, y0, [0.0, 9.0], event=event, solver=solver, gradient=gradient, **options)
    root = torch.sqrt(speed**2 - 2 * GRAVITY * height)
    exact = ((speed + root) / GRAVITY, -root)
    for found, wanted in ((solution.event.t, exact[0]), (solution.event.y[1], exact[1])):
        assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
        a = torch.autograd.grad(found, [speed, height], retain_graph=True)
        b = torch.autograd.grad(wanted, [speed, height], retain_graph=True)
        assert [x.item() for x in a] == pytest.approx([x.item() for x in b], rel=1e-5)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_gradients_pass_through_resets(gradient):
    def end(speed, **options):
        y0 = torch.stack([torch.ones_like(speed), speed])
        times = torch.linspace(0, 2, 5, dtype=F64)
        return solve(fall, y0, times, event=BOUNCE, **TIGHT, **options).ys[-1, 0]

    speed = torch.tensor(0.3, dtype=F64, requires_grad=True)
    (found,) = torch.autograd.grad(end(speed, gradient=gradient), speed)
    with torch.no_grad():
        wanted = (end(speed + 1e-5) - end(speed - 1e-5)) / 2e-5
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_many_balls_bounce_in_one_batch_each_in_its_own_time():
    heights = torch.linspace(0.5, 2, 6, dtype=F64)
    y0 = torch.stack([heights, torch.zeros_like(heights)], 1).requires_grad_()
    times = torch.linspace(0, 2, 9, dtype=F64)
    batch = solve(fall, y0, times, event=BOUNCE, stepping="per_sample", **TIGHT)
    (grad,) = torch.autograd.grad(batch.ys[-1, :, 0].sum(), y0)
    impacts = torch.stack([o.t for o in batch.events])
    for i in range(6):
        one = y0.detach()[i].requires_grad_()
        alone = solve(fall, one, times, event=BOUNCE, **TIGHT)
        assert torch.allclose(batch.ys[:, i], alone.ys, atol=1e-9)
        mine = impacts[:, i][~impacts[:, i].isnan()]
        assert torch.allclose(mine, torch.stack([o.t for o in alone.events]), atol=1e-9)
        assert torch.allclose(grad[i], torch.autograd.grad(alone.ys[-1, 0], one)[0], rtol=1e-6)
    assert impacts[0].tolist() == pytest.approx((2 * heights / GRAVITY).sqrt().tolist(), abs=1e-8)
    assert batch.event is None
    assert batch.status == (Status.SUCCESS,) * 6


def test_each_sample_ends_at_its_own_event():
    speeds = torch.tensor([5.0, 10.0, 400.0], dtype=F64)
    y0 = torch.stack([torch.zeros_like(speeds), speeds], 1)
    solution = solve(fall, y0, [0.0, 0.5, 5.0], event=GROUND, stepping="per_sample", **TIGHT)
    assert solution.status == (Status.EVENT, Status.EVENT, Status.SUCCESS)
    assert solution.event.t[:2].tolist() == pytest.approx((2 * speeds / GRAVITY)[:2].tolist())
    assert solution.event.t[2].isnan()
    assert solution.event.event.tolist() == [0, 0, -1]
    assert solution.event.y[:2, 1].tolist() == pytest.approx([-5.0, -10.0])
    assert solution.ys[-1, :2].isnan().all()
    assert solution.ys[-1, 2, 1].item() == pytest.approx(400 - 5 * GRAVITY)


def test_non_terminal_events_of_each_sample():
    speed = torch.tensor([1.0, 2.0], dtype=F64)
    turn = lambda t, y: torch.stack([speed * y[:, 1], -speed * y[:, 0]], 1)
    y0 = torch.tensor([[1.0, 0.0]] * 2, dtype=F64)
    event = Event(lambda t, y: y[:, 0], terminal=False)
    solution = solve(turn, y0, [0.0, 4.0], event=event, stepping="per_sample", **TIGHT)
    times = torch.stack([o.t for o in solution.events])
    found = [sorted(t for t in times[:, i].tolist() if not math.isnan(t)) for i in range(2)]
    assert found[0] == pytest.approx([math.pi / 2], abs=1e-7)
    assert found[1] == pytest.approx([math.pi / 4, 3 * math.pi / 4, 5 * math.pi / 4], abs=1e-7)


def test_events_with_given_steps_and_a_reset_onto_other_shapes():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    exact = math.sqrt(2 / GRAVITY)
    solution = solve(fall, y0, [0.0, 1.0], solver="rk4", dt=0.05, event=GROUND)
    assert solution.event.t.item() == pytest.approx(exact, abs=1e-10)
    grid = FixedSteps([0.0, 0.2, 0.9, 1.0])
    solution = solve(fall, y0, [0.0, 1.0], solver="rk4", controller=grid, event=GROUND)
    assert solution.event.t.item() == pytest.approx(exact, abs=1e-10)
    wrong = Event(lambda t, y: y[0], reset=lambda t, y: y[:1])
    with pytest.raises(ArgumentError, match="what an event's reset returns has the shape of y0"):
        solve(fall, y0, [0.0, 1.0], event=wrong)


def test_structured_states_reach_the_event_as_f_gets_them():
    def f(t, s):
        assert s["x"].dtype == torch.float32
        return {"x": s["v"], "v": torch.full_like(s["v"], -GRAVITY)}

    y0 = {"x": torch.ones(1), "v": torch.zeros(1)}
    solution = solve(f, y0, [0.0, 5.0], event=Event(lambda t, s: s["x"][0]))
    assert solution.event.t.item() == pytest.approx(math.sqrt(2 / GRAVITY), abs=1e-5)
    assert solution.event.y["v"].item() == pytest.approx(-math.sqrt(2 * GRAVITY), abs=1e-4)


def test_bad_events_are_refused():
    y0 = torch.ones(2, dtype=F64)
    with pytest.raises(ArgumentError, match="direction is -1, 0 or 1; got 2"):
        Event(lambda t, y: y, direction=2)
    with pytest.raises(ArgumentError, match="event is an Event or a list"):
        solve(oscillator, y0, [0.0, 1.0], event=[lambda t, y: y[0]])
    with pytest.raises(ArgumentError, match="returns one number with shared steps"):
        solve(oscillator, y0, [0.0, 1.0], event=Event(lambda t, y: y - 0.3))
    with pytest.raises(ArgumentError, match="whose zeros are the events; got float"):
        solve(oscillator, y0, [0.0, 1.0], event=Event(lambda t, y: 1.0))


def test_integrals_go_on_over_resets():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    times = torch.linspace(0, 2, 5, dtype=F64)
    speed = lambda t, y: y[..., 1]
    solution = solve(fall, y0, times, event=BOUNCE, integrand=speed, **TIGHT)
    # Heights do not jump at an impact, so the integral of the speed is the height.
    assert torch.allclose(solution.integrals, solution.ys[:, 0] - 1.0, atol=1e-8)
    batch = solve(fall, y0[None], times, event=BOUNCE, integrand=speed, stepping="per_sample",
                  **TIGHT)  # fmt: skip
    assert torch.allclose(batch.integrals[:, 0], solution.integrals, atol=1e-8)


def test_the_state_after_an_event_starts_the_next_solve():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    ended = solve(fall, y0, [0.0, 5.0], event=GROUND, **TIGHT)
    again = solve(fall, ended.state.with_y(flip(None, ended.state.y)), [ended.state.t, 1.0],
                  **TIGHT)  # fmt: skip
    whole = solve(fall, y0, [0.0, 1.0], event=BOUNCE, **TIGHT)
    assert torch.allclose(again.ys[-1], whole.ys[-1], atol=1e-8)
