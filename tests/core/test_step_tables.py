"""Counts of per-sample steps that can be worked out by hand, and torchode's own cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from ode_core import PIDController, Status, Step, solve
from ode_core.rows import along
from tests.problems import F64


@dataclass(frozen=True)
class Straight:
    """Euler's step, which claims to make no error: the controller alone decides."""

    name: str = "straight"
    order: int = 1
    adaptive: bool = True
    implicit: bool = False
    one_step: bool = True
    per_sample: bool = True

    def init(self, field, t, y):
        return ()

    def step(self, field, t0, t1, y, carry, tolerance):
        return Step(y + along(t1 - t0, y) * field(t0, y), torch.zeros_like(t1), (), ())


@dataclass(frozen=True, eq=False)
class Script:
    """Accepts, and multiplies step sizes by, what row i says at attempt i; then by the last row."""

    factors: Any
    accepts: Any = ((1.0,),)
    per_sample: ClassVar[bool] = True

    def init(self):
        return 0

    def judge(self, error, order, memory):
        row = [table[min(memory, len(table) - 1)] for table in (self.factors, self.accepts)]
        factor, accept = (torch.tensor(values, dtype=F64).expand_as(error) for values in row)
        return accept > 0.5, factor, memory + 1


def ramps(batch):
    """y' = 1, of this batch and no other, so that finished samples stay in it."""
    slope = torch.ones(batch, 1, dtype=F64)
    return lambda t, y: slope + 0 * y


def scripted(times, dt, factors=((1.0,),), accepts=((1.0,),), **options):
    grid = torch.tensor(times, dtype=F64)
    y0 = torch.zeros(len(times), 1, dtype=F64)
    solution = solve(
        ramps(len(times)),
        y0,
        grid,
        solver=Straight(),
        controller=Script(factors, accepts),
        dt=torch.tensor(dt, dtype=F64),
        stepping="per_sample",
        record_steps=True,
        **options,
    )
    for i in range(len(times)):
        if solution.status[i] is Status.SUCCESS:
            expected = grid[i] - grid[i, 0]
            torch.testing.assert_close(solution.ys[:, i, 0], expected, rtol=1e-12, atol=1e-12)
    return solution


def attempts(solution):
    return (solution.stats.accepted + solution.stats.rejected).tolist()


def starts(solution, sample):
    return solution.steps.t[solution.steps.sample == sample].tolist()


def test_outputs_of_three_spans_by_the_same_steps():
    solution = scripted([[0.0, 1.0, 2.0], [2.0, 2.5, 4.0], [0.5, 2.0, 2.5]], [0.3, 0.3, 0.3])
    assert attempts(solution) == [7, 7, 7]
    assert solution.stats.accepted.tolist() == [7, 7, 7]


def test_samples_step_independently():
    solution = scripted(
        [[0.0, 0.15, 1.0], [1.0, 1.9, 2.0]], [0.1, 0.3], [[5.0, 0.125 / 0.3], [1.0, 1.0]]
    )
    assert attempts(solution) == [3, 7]


def test_several_outputs_in_one_step():
    solution = scripted([[0.0, 0.25, 0.33, 1.0]], [0.1], [[5.0], [1.0]])
    assert attempts(solution) == [3]


def test_several_outputs_in_the_last_step():
    solution = scripted([[0.0, 0.9, 1.0]] * 3, [1.1, 1.1, 0.6])
    assert attempts(solution) == [1, 1, 2]


def test_ends_are_reached_whatever_the_step_size():
    solution = scripted([[0.0, 10.0], [5.0, 9.0], [2.0, 4.5]], [0.5001, 0.2501, 1.0])
    assert attempts(solution) == [20, 16, 3]


def test_max_steps_ends_one_sample_and_not_the_other():
    times = [[1.0, 1.5, 4.9], [2.0, 2.5, 13.0]]
    solution = scripted(times, [1.0, 1.0], max_steps=7, on_failure="return")
    assert attempts(solution) == [4, 7]
    assert solution.status == (Status.SUCCESS, Status.MAX_STEPS)
    assert solution.ys[:2, 1, 0].tolist() == pytest.approx([0.0, 0.5])
    assert math.isnan(solution.ys[2, 1, 0].item())


def test_a_rejected_step_is_tried_again_from_the_same_place():
    solution = scripted(
        [[0.0, 1.0], [1.0, 2.0]],
        [0.1, 0.1],
        [[5.0, 5.0], [1.0, 1.0]],
        [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]],
    )
    assert starts(solution, 0) == pytest.approx([0.0, 0.1, 0.6])
    assert starts(solution, 1) == pytest.approx([1.0, 1.1, 1.1, 1.1, 1.6])
    assert attempts(solution) == [3, 5]
    assert solution.stats.accepted.tolist() == [3, 3]


def test_output_waits_for_an_accepted_step():
    solution = scripted(
        [[0.0, 0.5, 1.0]] * 3,
        [1.1, 1.1, 0.6],
        accepts=[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0] * 3],
    )
    assert attempts(solution) == [3, 1, 2]
    assert solution.stats.accepted.tolist() == [1, 1, 2]


def test_a_rejected_first_step_does_not_skip_the_output_at_the_start():
    solution = scripted(
        [[0.0, 0.0, 1.0], [0.0, 0.4, 1.0]],
        [0.6, 0.3],
        accepts=[[0.0, 0.0], [1.0, 1.0]],
    )
    assert attempts(solution) == [3, 5]
    assert solution.stats.accepted.tolist() == [2, 4]
    assert solution.ys[:2, 0, 0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("controller", [PIDController(), PIDController(0.2, 0.5, 0.0)])
def test_opposite_directions_in_one_batch(controller):
    times = torch.tensor([[0.0, 3.0, 5.0], [2.0, 0.5, -8.0]], dtype=F64)
    y0 = torch.tensor([[1.0], [12.0 - 3.0]], dtype=F64)
    options = {"rtol": 1e-5, "atol": 1e-5, "controller": controller, "stepping": "per_sample"}
    ys = solve(lambda t, y: torch.full_like(y, 2.0), y0, times, **options).ys[..., 0]
    assert ys[:, 0].tolist() == pytest.approx([1.0, 7.0, 11.0])
    assert ys[:, 1].tolist() == pytest.approx([9.0, 6.0, -11.0])


def sine_problem(t, y):
    """2 y / t + t^4 sin 2t - t^2 + 4 t^3."""
    t = t[:, None]
    return 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3


def sine_solution(t):
    cos, sin = torch.cos(2 * t), torch.sin(2 * t)
    own = -(t**4) / 2 * cos + t**3 / 2 * sin + t**2 / 4 * cos - t**3 + 2 * t**4
    return own + (math.pi - 0.25) * t**2


def test_there_and_back_again():
    times = torch.tensor([[1.0, 3.0], [2.0, 5.0], [4.0, 2.5]], dtype=F64)
    y0 = sine_solution(times[:, :1])
    options = {"rtol": 1e-8, "atol": 1e-8, "stepping": "per_sample"}
    there = solve(sine_problem, y0, times, **options).ys[-1]
    torch.testing.assert_close(there, sine_solution(times[:, 1:]), rtol=1e-6, atol=1e-6)
    back = solve(sine_problem, there, times.flip(1), **options).ys[-1]
    torch.testing.assert_close(back, y0, rtol=1e-4, atol=1e-4)


def test_f_is_evaluated_inside_of_every_samples_own_range():
    times = torch.tensor([[0.1, 1.0], [1.0, 2.0], [1.0, 0.95]], dtype=F64)
    low, high = times.min(1).values, times.max(1).values

    def f(t, y):
        sample = y[:, 0].round().long()
        assert bool(((low[sample] <= t) & (t <= high[sample])).all()), t
        return torch.stack([0 * t, -y[:, 1] * torch.cos(t)], -1)

    y0 = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=F64)
    for solver in ("dopri5", "tsit5", "bosh3", "dopri8"):
        solve(f, y0, times, solver=solver, stepping="per_sample")


@pytest.mark.parametrize(("time", "data"), [(F64, torch.float32), (torch.float32, F64)])
@pytest.mark.parametrize("solver", ["adaptive_heun", "dopri5", "tsit5"])
def test_dtypes_of_time_and_state_do_not_mix(solver, time, data):
    seen = set()

    def f(t, y):
        seen.add((t.dtype, y.dtype))
        return -y * torch.cos(t).to(y.dtype)[:, None]

    options = {"solver": solver, "stepping": "per_sample", "time_dtype": time}
    solution = solve(
        f, torch.ones(2, 3, dtype=data), torch.tensor([0.0, 3.0], dtype=time), **options
    )
    assert seen == {(time, data)}
    assert solution.ys.dtype == data
    assert min(solution.stats.accepted.tolist()) > 3


def test_gradients_by_the_matrix_the_start_and_the_times():
    matrix = torch.tensor(
        [[-1.4534, -0.3726, -0.7916], [-1.0553, 0.9511, 0.1316], [-1.8320, -0.7707, -1.0867]],
        dtype=F64,
        requires_grad=True,
    )
    y0 = torch.tensor([[0.33, 1.2, -0.4], [0.55, -0.8, 1.23]], dtype=F64, requires_grad=True)
    times = torch.tensor([[0.0, 1.77, 3.0], [2.0, 3.5, 6.0]], dtype=F64, requires_grad=True)

    def end(matrix, y0, times):
        return solve(
            lambda t, y, a: y @ a,
            y0,
            times,
            args=(matrix,),
            stepping="per_sample",
            controller=PIDController(0.3, 0.6),
            rtol=1e-8,
            atol=1e-8,
        ).ys[1:]

    assert torch.autograd.gradcheck(end, (matrix, y0, times), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_the_state_at_the_start_does_not_move_with_its_time(stepping):
    times = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
    ys = solve(lambda t, y: -y, y0, times, stepping=stepping, rtol=1e-9, atol=1e-9).ys
    (grad,) = torch.autograd.grad(ys.sum(), times)
    end = 2 * math.exp(-1)
    assert grad.tolist() == pytest.approx([end, -end], rel=1e-7)


class TestController:
    """A PID controller on one error and on many."""

    pid = PIDController(0.2, 0.5, 0.1)

    def test_an_error_of_zero_has_a_finite_factor(self):
        accept, factor, _ = self.pid.judge(0.0, 5, self.pid.init())
        assert accept
        assert 1.0 < factor <= 10.0

    @pytest.mark.parametrize("error", [math.inf])
    def test_a_failed_step_shrinks_as_far_as_it_may(self, error):
        accept, factor, _ = self.pid.judge(error, 5, self.pid.init())
        assert not accept
        assert factor == 0.2

    def test_small_errors_grow_the_step_and_large_ones_shrink_it(self):
        assert self.pid.judge(0.01, 5, self.pid.init())[1] > 1
        accept, factor, _ = self.pid.judge(20.0, 5, self.pid.init())
        assert not accept
        assert factor < 1

    def test_a_rejection_keeps_the_errors_of_the_accepted_steps(self):
        _, _, memory = self.pid.judge(0.5, 5, self.pid.init())
        _, _, after = self.pid.judge(20.0, 5, memory)
        assert tuple(after)[:2] == tuple(memory)[:2]

    def test_many_errors_are_judged_like_one_each(self):
        errors = [0.0, 0.01, 0.5, 1.0, 20.0, math.inf]
        one = [self.pid.judge(e, 5, self.pid.init())[:2] for e in errors]
        accept, factor, _ = self.pid.judge(torch.tensor(errors, dtype=F64), 5, self.pid.init())
        assert accept.tolist() == [bool(a) for a, _ in one]
        assert factor.tolist() == pytest.approx([f for _, f in one], rel=1e-14)

    def test_dt_max_caps_and_dt_min_is_taken(self):
        y0 = torch.ones(1, dtype=F64)
        capped = solve(
            lambda t, y: -y, y0, [0.0, 1.0], controller=PIDController(dt_max=0.1), record_steps=True
        )
        assert capped.steps.dt.max() <= 0.1
        floored = solve(
            lambda t, y: -100 * y,
            y0,
            [0.0, 1.0],
            controller=PIDController(dt_min=0.02),
            record_steps=True,
        )
        assert floored.steps.dt[:-1].min() >= 0.02 - 1e-12
