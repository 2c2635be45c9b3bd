"""Checkpoints within a budget: what is kept, in what order the rest is made, what it costs."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, solve
from ode_solvers import Checkpoint
from ode_solvers.gradients.schedule import backwards, cost, thinned
from tests.problems import F64, lotka_volterra


@cache
def least(steps, slots):
    """The least number of repeated steps, by trying every place for the next state."""
    if steps < 2:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(m + least(steps - m, slots - 1) + least(m, slots) for m in range(1, steps))


@pytest.mark.parametrize("slots", range(1, 8))
def test_the_schedule_repeats_as_few_steps_as_possible(slots):
    for steps in range(1, 50):
        repeated, order, kept = [], [], {0: 0}

        def advance(start, end, state, repeated=repeated):
            assert state == start
            repeated.append(end - start)
            return end

        for index, state in backwards(kept, steps, slots, advance):
            assert index == state
            assert len(kept) <= slots
            order.append(index)
        assert order == list(range(steps))[::-1]
        assert sum(repeated) == cost(steps, slots) == least(steps, slots)


def test_states_kept_on_the_way_are_dropped_where_that_is_cheaper():
    assert thinned(list(range(8)), 8, 8) == list(range(8))
    # With every slot taken the steps of a stretch would be repeated again and again.
    chosen = thinned(list(range(0, 1000, 128)), 1000, 8)
    assert chosen[0] == 0
    assert len(chosen) < 8


def held_bytes(gradient, steps):
    """The bytes that a forward pass leaves for the backward one."""
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as record:
        kept = solve(lambda t, y: rate * y.sin(), torch.ones(1000, dtype=F64), [0.0, 1.0],
                     solver="rk4", dt=1.0 / steps, gradient=gradient)  # fmt: skip
    assert kept.stats.accepted == steps
    return sum(event.self_cpu_memory_usage for event in record.key_averages())


def test_memory_is_one_state_a_step_or_what_the_budget_says():
    state = 8 * 1000
    direct, plain = (held_bytes(g, 100) - held_bytes(g, 50) for g in ("direct", "checkpoint"))
    assert plain == 50 * state
    assert direct >= 4 * plain
    for steps in (10, 100, 300):
        budget = held_bytes(Checkpoint(states=8), steps)
        assert budget <= (8 + 4) * state, "and the outputs, the last state and the carry"
    assert held_bytes(Checkpoint(bytes=5 * state), 100) <= (5 + 4) * state


@pytest.mark.parametrize("solver", ["rk4", "leapfrog", "adams_moulton"])
@pytest.mark.parametrize("states", [1, 2, 5, 20, 1000])
def test_a_budget_costs_evaluations_and_changes_nothing(states, solver):
    options = {"solver": solver, "controller": FixedSteps(), "dt": 1 / 60}

    def run(gradient):
        rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
        y0 = torch.ones(3, dtype=F64, requires_grad=True)
        f = lambda t, y: rate * y.sin()
        solution = solve(f, y0, [0.0, 0.45, 1.0], gradient=gradient, **options)
        found = torch.autograd.grad(solution.ys.sum(), [rate, y0], retain_graph=True)
        once = solution.stats.backward_f_calls
        # A second pass begins with the first state alone.
        again = torch.autograd.grad(solution.ys.sum(), [rate, y0])
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        return found, once

    exact, _ = run("direct")
    found, calls = run(Checkpoint(states=states))
    _, plain = run(Checkpoint())
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found, exact, strict=True))
    assert (calls > plain) == (states < 60)


def test_a_multistep_solve_rejects_again_what_it_rejected():
    """Its rejections change its order, and so the steps that follow."""
    y0, height = torch.ones(2, dtype=F64, requires_grad=True).unbind()
    sudden = lambda t, y: -50.0 * (y - height * torch.cos(t)) if 1.0 < t < 2.0 else -y

    def run(gradient):
        solution = solve(sudden, y0, [0.0, 3.0], solver="adams_bashforth", gradient=gradient,
                         rtol=1e-5, atol=1e-5)  # fmt: skip
        assert solution.stats.rejected > 3
        return torch.autograd.grad(solution.ys[-1], height)[0]

    for states in (3, 10):
        found = run(Checkpoint(states=states))
        # After the sudden stretch gradients grow to a million times the result, and fall again.
        assert found.item() == pytest.approx(run("direct").item(), rel=1e-9)


def test_a_budget_with_events_and_jumps():
    bounce = ode_core.Event(lambda t, y: y[0] - 1.2, direction=-1, terminal=False)

    def run(gradient):
        y0 = torch.tensor([1.0, 1.2], dtype=F64, requires_grad=True)
        solution = solve(lotka_volterra, y0, [0.0, 2.0, 5.0], solver="adams_moulton", event=bounce,
                         jump_times=[1.0, 3.0], gradient=gradient)  # fmt: skip
        assert solution.events
        return torch.autograd.grad(solution.ys.sum() + solution.events[0].t, y0)[0]

    for states in (1, 4):
        assert torch.allclose(run(Checkpoint(states=states)), run("direct"), rtol=1e-10)


def test_checkpoint_needs_room_for_a_state():
    with pytest.raises(ArgumentError, match=r"got both"):
        Checkpoint(states=2, bytes=100)
    with pytest.raises(ArgumentError, match=r"at least one state.*got 0"):
        Checkpoint(states=0)
    y0 = torch.ones(10, dtype=F64, requires_grad=True)
    with pytest.raises(ArgumentError, match=r"no room for a state, which takes 80 bytes"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=Checkpoint(bytes=79))
