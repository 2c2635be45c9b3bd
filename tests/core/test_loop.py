"""The step loop, most of it with a stub solver and a stub controller: no numerics needed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

from ode_core import ArgumentError, FixedSteps, PIDController, Step, solve
from ode_core.problem import neighbours
from ode_core.tolerance import Tolerance
from tests.problems import F64

Y0 = torch.zeros(1, dtype=F64)

# start + (end - start) is the next number after end.
ROUNDS_BEYOND = (0.78, 3.4)


@dataclass
class Stub:
    """Adds dt to the state and reports the errors it was told to."""

    errors: list = field(default_factory=list)
    name: str = "stub"
    order: int = 1
    adaptive: bool = True
    implicit: bool = False
    one_step: bool = True
    starts: list = field(default_factory=list)
    attempts: list = field(default_factory=list)

    def init(self, f, t, y):
        self.starts.append(t)
        return ()

    def step(self, f, t0, t1, y, carry, tolerance):
        self.attempts.append((t0, t1))
        error = self.errors.pop(0) if self.errors else 0.5
        return Step(y + (t1 - t0), None if tolerance is None else error, carry, None)


@dataclass
class Halving:
    """Halves the step when it rejects and keeps it otherwise."""

    def init(self):
        return None

    def judge(self, error, order, memory):
        return error <= 1, 1.0 if error <= 1 else 0.5, memory


def one(t, y):
    return torch.ones_like(y)


def run(stub, t, **options):
    return solve(one, Y0, t, solver=stub, **({"controller": Halving(), "dt": 1.0} | options))


def test_a_rejected_step_goes_on_from_the_same_place():
    stub = Stub([0.5, 2.0, 2.0])
    solution = run(stub, [0.0, 2.0])
    assert stub.attempts[:4] == [(0.0, 1.0), (1.0, 2.0), (1.0, 1.5), (1.0, 1.25)]
    assert (solution.stats.accepted, solution.stats.rejected) == (len(stub.attempts) - 2, 2)
    assert solution.ys[-1].item() == 2.0


@pytest.mark.parametrize("end", [3.3, -3.3])
def test_the_end_is_hit_to_the_bit_in_either_direction(end):
    stub = Stub()
    run(stub, [0.0, end])
    assert stub.attempts[-1][1] == end
    assert len(stub.attempts) == 4


def test_a_step_cut_at_a_stop_keeps_the_uncut_size():
    stub = Stub()
    run(stub, [0.0, 4.0], jump_times=[1.25])
    sizes = [t1 - t0 for t0, t1 in stub.attempts]
    assert sizes[0] == 1.0
    assert sizes[1] == pytest.approx(0.25)
    assert sizes[2] == pytest.approx(1.0)


def test_outputs_cost_no_steps_and_no_evaluations():
    few = run(Stub(), [0.0, 4.0])
    many = run(Stub(), torch.linspace(0, 4, 101, dtype=F64))
    assert few.stats.accepted == many.stats.accepted
    assert torch.allclose(many.ys[:, 0], many.ts)


def test_fixed_steps_land_on_multiples_of_dt_and_on_the_end():
    stub = Stub()
    solve(one, Y0, [0.0, 1.0], solver=stub, controller=FixedSteps(), dt=0.3)
    assert [t1 for _, t1 in stub.attempts] == [0.3, 0.6, pytest.approx(0.9), 1.0]
    stub = Stub()
    solve(one, Y0, [0.0, 1.0], solver=stub, controller=FixedSteps(), dt=0.1)
    assert len(stub.attempts) == 10


def test_fixed_steps_follow_a_grid():
    stub = Stub()
    grid = [1.0, 0.5, 0.4, -2.0]
    solve(one, Y0, [1.0, -2.0], solver=stub, controller=FixedSteps(grid))
    assert [t1 for _, t1 in stub.attempts] == grid[1:]


@pytest.mark.parametrize("options", [{}, {"controller": FixedSteps(), "dt": 0.3}])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_jumps_are_met_from_both_sides_and_start_the_solver_anew(options, start, end):
    stub = Stub()
    run(stub, [start, end], jump_times=[0.5], **options)
    before, after = neighbours(0.5, F64, end - start)
    assert before in [t1 for _, t1 in stub.attempts]
    assert stub.starts == [start, after]
    assert after in [t0 for t0, _ in stub.attempts]
    assert all(0.5 not in ends for ends in stub.attempts)


@pytest.mark.parametrize("solver", ["dopri5", "rk4", "euler"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.7), (0.7, 0.1)])
def test_f_is_never_called_outside_the_interval(solver, dtype, start, end):
    seen = []

    def f(t, y):
        seen.append(t)
        return y.cos() * t

    options = {"dt": 0.17} if solver != "dopri5" else {}
    times = torch.linspace(start, end, 7, dtype=F64)
    solve(f, torch.ones(2, dtype=dtype), times, solver=solver, jump_times=[0.3], **options)
    low, high = sorted((torch.tensor(start, dtype=dtype), torch.tensor(end, dtype=dtype)))
    assert all(low <= t <= high for t in seen)


def test_jumps_save_evaluations_and_errors():
    def f(t, y):
        return torch.where(t < 0.5, -0.5 * y, y * y)

    y0 = torch.tensor([1.0, 1.5], dtype=F64)
    plain = solve(f, y0, [0.0, 1.0], rtol=1e-8, atol=1e-8)
    aware = solve(f, y0, [0.0, 1.0], rtol=1e-8, atol=1e-8, jump_times=[0.5])
    exact = 1 / (1 / (y0 * math.exp(-0.25)) - 0.5)
    assert aware.stats.f_calls < plain.stats.f_calls
    assert (aware.ys[-1] - exact).abs().max() < 1e-7


def test_an_output_exactly_at_a_jump_is_the_state_before_it():
    ys = solve(one, Y0, [0.0, 0.5, 1.0], jump_times=[0.5]).ys
    assert ys[:, 0].tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_evaluation_counts_are_the_calls_of_f():
    for solver, options in (("dopri5", {}), ("dopri8", {}), ("bosh3", {}), ("rk4", {"dt": 0.1})):
        calls = []

        def f(t, y, calls=calls):
            calls.append(1)
            return -y * y

        y0 = torch.ones(1, dtype=F64)
        stats = solve(f, y0, [0.0, 0.3, 2.0], solver=solver, **options).stats
        assert stats.f_calls == len(calls)


def test_the_controllers_formulae():
    controller = PIDController(pcoeff=0.0, icoeff=1.0)
    accept, factor, memory = controller.judge(2.0**-5, 5, controller.init())
    assert accept
    assert factor == pytest.approx(0.9 * 2)
    accept, factor, memory = controller.judge(32.0, 5, memory)
    assert not accept
    assert factor == pytest.approx(0.45)
    accept, factor, memory = controller.judge(1e-9, 5, memory)
    assert accept
    assert factor == 1.0, "no growth right after a rejection"
    assert controller.judge(math.inf, 5, memory)[:2] == (False, 0.2)
    assert controller.judge(0.0, 5, controller.init())[:2] == (True, 10.0)


def test_the_pid_controller_remembers_two_errors():
    plain = PIDController(pcoeff=0.4, icoeff=0.3)
    _, first, memory = plain.judge(0.5, 1, plain.init())
    assert first == pytest.approx(0.9 * 0.5**-0.7)
    _, second, _ = plain.judge(0.25, 1, memory)
    assert second == pytest.approx(0.9 * 0.25**-0.7 * 0.5**0.4)


def test_a_floor_keeps_small_errors_from_holding_the_steps_back():
    memory = (1e-4, 1e-4, False)
    _, bare, _ = PIDController(floor=0.0).judge(0.01, 5, memory)
    _, factor, _ = PIDController().judge(0.01, 5, memory)
    assert bare == pytest.approx(0.9 * 0.01**-0.17 * 1e-4**0.04)
    assert factor == pytest.approx(0.85 * 0.9 * 0.01**-0.2)
    assert factor > 1.3 * bare
    rows = torch.tensor([0.01, 0.9], dtype=F64)
    _, each, _ = PIDController().judge(rows, 5, (1e-4, 1e-4, False))
    assert each[0] == pytest.approx(factor)
    assert each[1] == pytest.approx(PIDController().judge(0.9, 5, memory)[1])
    # A filter that someone chose is that filter.
    assert PIDController(pcoeff=0.4, icoeff=0.3).floor == 0.0
    with pytest.raises(ArgumentError, match="from 0 to 1; got 2"):
        PIDController(floor=2)


@pytest.mark.parametrize("pcoeff", [0.0, 0.3])
def test_every_controller_setting_changes_the_steps(pcoeff):
    def steps(**settings):
        y0 = torch.ones(1, dtype=F64)
        controller = PIDController(pcoeff, **({"icoeff": 1.0} | settings))
        return solve(
            lambda t, y: y * (5 * t).cos() * 5, y0, [0.0, 9.0], controller=controller
        ).stats.accepted

    base = steps()
    for name, value in dict(
        icoeff=0.6, dcoeff=0.1, safety=0.6, factor_min=0.9, factor_max=1.1
    ).items():
        assert steps(**{name: value}) != base, name


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_step_is_stretched_to_a_stop_that_is_near(stepping):
    def sizes(end, **settings):
        solution = solve(
            lambda t, y: 0.0 * y, torch.ones(1, 1, dtype=F64), [0.0, end], dt=1.0,
            stepping=stepping, record_steps=True,
            controller=PIDController(factor_max=1.0 + 1e-9, **settings),
        )  # fmt: skip
        return solution.steps.dt.flatten().tolist()

    assert sizes(1.09) == [1.09]
    assert sizes(1.11) == pytest.approx([1.0, 0.11])
    # What is given as the largest size stays that.
    assert sizes(1.09, dt_max=1.05) == pytest.approx([1.0, 0.09])
    assert sizes(1.04, dt_max=1.05) == [1.04]


def test_the_norm_is_hairers():
    tolerance = Tolerance(rtol=0.1, atol=1.0)
    y0, y1 = torch.tensor([10.0, 0.0]), torch.tensor([-30.0, 1.0])
    error = torch.tensor([4.0, 1.1])
    assert tolerance.norm(error, y0, y1) == pytest.approx(1.0)
    assert tolerance.norm(error, y0, torch.tensor([math.inf, 0.0])) == math.inf
    assert tolerance.norm(error * math.nan, y0, y1) == math.inf
    blocks = Tolerance(rtol=0.0, atol=1.0, segments=(1, 3))
    flat = torch.tensor([2.0, 0.0, 0.0, 3.0])
    assert blocks.norm(flat, flat, flat) == pytest.approx(2.0)


def test_a_strangers_solver_and_its_retry_carry():
    """A carry renewed on rejection reaches the next attempt."""
    seen = []

    class Retrying(Stub):
        def init(self, f, t, y):
            return (torch.zeros(1),)

        def step(self, f, t0, t1, y, carry, tolerance):
            seen.append(carry[0].item())
            error = 2.0 if len(seen) == 1 else 0.5
            return Step(y, error, (carry[0] + 10,), None, retry=(carry[0] + 1,))

    run(Retrying(), [0.0, 1.0])
    assert seen == [0.0, 1.0, 11.0]


@pytest.mark.parametrize("solver", ["rk4", "dopri5", "heun"])
def test_the_last_stage_is_at_the_end_and_not_at_its_rounding(solver):
    start, end = ROUNDS_BEYOND
    assert start + (end - start) > end
    seen = []

    def f(t, y):
        seen.append(t.item())
        return -y

    whole = {"controller": FixedSteps([start, end])}
    solve(f, torch.ones(1, dtype=F64), [start, end], solver=solver, **whole)
    assert max(seen) == end


@pytest.mark.parametrize("name", ["dopri8", "adaptive_heun", "dopri5"])
def test_a_step_that_is_taken_whatever_its_error_is_followed_by_one_with_its_own_slope(name):
    least = PIDController(dt_min=0.125, dt_max=0.125)
    y0, options = torch.ones(1, dtype=torch.float64), {"rtol": 1e-12, "atol": 1e-14}

    def field(t, y):
        return y * torch.cos(8.0 * t)

    forced = solve(field, y0, [0.0, 1.0], solver=name, controller=least, dt=0.125, **options)
    given = solve(field, y0, [0.0, 1.0], solver=name, controller=FixedSteps(), dt=0.125)
    assert forced.stats.accepted == 8
    assert torch.allclose(forced.ys, given.ys, rtol=1e-13)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_stretched_step_that_is_refused_is_not_made_again_for_ever(stepping):
    """Even by a controller that takes next to nothing off."""
    settings = PIDController(pcoeff=0.0, icoeff=1.0, safety=1.0, factor_min=0.97)
    solution = solve(
        lambda t, y: torch.cos(3 * t).view(-1, 1) * y, torch.ones(1, 1, dtype=F64), [0.0, 5.0],
        dt=5.0, controller=settings, stepping=stepping, max_steps=2000,
    )  # fmt: skip
    rejected = solution.stats.rejected
    assert 30 < int(rejected) < 300
