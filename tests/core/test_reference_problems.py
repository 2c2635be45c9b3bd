"""The catalogue of known solutions, against closed forms and SciPy on the very same functions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from scipy.integrate import solve_ivp

from ode_core.testing.problems import DETEST, JUMPING, PROBLEMS

F64 = torch.float64

# What rounding leaves of a solution at 1e-12, where more than 1e-8: chaos and a close flyby.
SENSITIVE = {
    ("lorenz", 20.0): 1e-5,
    ("lorenz_ones", 20.0): 1e-5,
    ("arenstorf_small", PROBLEMS["arenstorf_small"].t1): 1e-7,
}


def scipy_solution(problem, t):
    """The state at t by SciPy at 1e-12, started again at each jump."""
    settings = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-12}
    if problem.stiff:
        settings = {"method": "Radau", "rtol": 1e-10, "atol": 1e-14}
    state = problem.y0.numpy()
    stops = [0.0, *(jump for jump in problem.jump_times if jump < t), t]
    for low, high in pairwise(stops):

        def f(time, y, low=low, high=high):
            if problem.jump_times and time in (low, high):
                # A jump's own time belongs to the piece that is being solved.
                time += 1e-13 * (low + high - 2 * time)
            return problem.f(torch.tensor(time, dtype=F64), torch.from_numpy(y)).numpy()

        solution = solve_ivp(f, (low, high), state, **settings)
        assert solution.success, solution.message
        state = solution.y[:, -1]
    return torch.from_numpy(state)


CASES = [(name, t) for name, problem in PROBLEMS.items() for t in problem.values]


@pytest.mark.parametrize(("name", "t"), CASES)
def test_scipy_arrives_at_the_stored_value(name, t):
    problem = PROBLEMS[name]
    allowed = SENSITIVE.get((name, t), 1e-8)
    assert problem.error(scipy_solution(problem, t), t) <= allowed


CLOSED = [name for name, problem in PROBLEMS.items() if problem.exact]


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_agree_with_the_digits_and_with_the_equations(name):
    problem = PROBLEMS[name]
    assert problem.error(problem.exact(problem.t1)) <= max(1e-14, problem.floor)
    torch.testing.assert_close(problem.exact(0.0), problem.y0, rtol=1e-14, atol=1e-15)
    for t in (0.3, 2.7, 7.9):
        h = 1e-5
        slope = (problem.exact(t + h) - problem.exact(t - h)) / (2 * h)
        there = problem.f(torch.tensor(t, dtype=F64), problem.exact(t))
        torch.testing.assert_close(slope, there, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_functions_take_batches_and_any_float_dtype(name):
    problem = PROBLEMS[name]
    times = torch.tensor([0.25, 1.75], dtype=F64)
    states = problem.y0 + torch.tensor([[0.01], [0.02]], dtype=F64)
    both = problem.f(times, states)
    for row in range(2):
        alone = problem.f(times[row], states[row])
        torch.testing.assert_close(both[row], alone, rtol=1e-14, atol=1e-14)
    single = problem.f(times.float(), states.float())
    assert single.dtype == torch.float32
    assert single.shape == states.shape


def test_the_catalogue_is_complete():
    assert len(DETEST) == 25
    assert set(DETEST) | set(JUMPING) <= set(PROBLEMS)
    for problem in PROBLEMS.values():
        assert problem.t1 in problem.values
        assert all(len(end) == len(problem.start) for end in problem.values.values())
        assert problem.source
        assert all(0 < jump < problem.t1 for jump in problem.jump_times)


def test_the_error_is_relative_for_large_and_absolute_for_small_components():
    problem = PROBLEMS["A4"]
    assert problem.error(problem.y1 + 0.1) == pytest.approx(0.1 / (1 + 17.73016648131484))
    assert PROBLEMS["A1"].error(torch.tensor([0.5])) == pytest.approx(0.5)
