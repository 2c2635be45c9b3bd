"""Work and precision: errors against 18 digits, evaluations against what peers need for them."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest

from ode_core import solve
from ode_core.errors import SolveError
from ode_core.testing.problems import DETEST, JUMPING, PROBLEMS
from tests.solvers.reference_counts import DOPRI5, RK45, TOLERANCES, TORCHDIFFEQ, TOTALS

LINE = tuple(10.0**-k for k in range(2, 11))


@cache
def measured(name, solver, tolerance):
    """Evaluations, the largest scaled error and the root mean square error at the end."""
    problem = PROBLEMS[name]
    times = [0.0, problem.t1]
    solution = solve(problem.f, problem.y0, times, solver=solver, rtol=tolerance, atol=tolerance)
    end = solution.ys[-1]
    square = (end - problem.y1).square().mean().sqrt().item()
    return solution.stats.f_calls, problem.error(end), square


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def line_of(name, solver):
    """The (evaluations, error) of a problem at every tolerance at which it can be solved."""
    line = []
    for tolerance in LINE:
        try:
            calls, _, error = measured(name, solver, tolerance)
        except SolveError:
            # At 1e-2 the rough orbit of D1 falls into the sun; so does SciPy's.
            assert tolerance > 1e-3, name
            continue
        line.append((calls, error))
    return line


def evaluations_for(line, error):
    """Evaluations for an error: log against log, between the last two tolerances around it."""
    if error >= line[0][1]:
        # The coarsest solve is better already.
        return line[0][0]
    crossings = [
        math.exp(math.log(f) + math.log(error / e) / math.log(better / e) * math.log(more / f))
        for (f, e), (more, better) in pairwise(line)
        if min(e, better) <= error <= max(e, better) and e != better
    ]
    return crossings[-1]


@pytest.mark.parametrize("column", range(3), ids=map(str, TOLERANCES))
def test_dopri5_errs_like_the_reference(column):
    tolerance = TOLERANCES[column]
    ratios = {
        name: measured(name, "dopri5", tolerance)[1] / cells[column][1]
        for name, cells in DOPRI5.items()
    }
    assert geometric_mean(ratios.values()) <= 1.5
    assert max(ratios.values()) <= 20, max(ratios, key=ratios.get)


@pytest.mark.parametrize("column", range(3), ids=map(str, TOLERANCES))
def test_dopri5_works_like_the_reference(column):
    for name, cells in DOPRI5.items():
        calls = measured(name, "dopri5", TOLERANCES[column])[0]
        peers = (cells[column][0], RK45[name][column])
        assert 0.75 * min(peers) <= calls <= 1.25 * max(peers), (name, calls, peers)


@pytest.mark.parametrize("column", range(3), ids=map(str, TOLERANCES))
def test_dopri5_needs_fewer_evaluations_for_torchdiffeqs_errors(column):
    ratios = [
        evaluations_for(line_of(name, "dopri5"), cells[column][1]) / cells[column][0]
        for name, cells in TORCHDIFFEQ.items()
    ]
    assert geometric_mean(ratios) <= 1.0


@pytest.mark.parametrize("column", range(3), ids=map(str, TOLERANCES))
@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
def test_totals_over_detest_for_torchdiffeqs_mean_error(solver, column):
    line = []
    for tolerance in LINE[1:]:
        cells = [measured(name, solver, tolerance) for name in DETEST]
        line.append((sum(c[0] for c in cells), geometric_mean(c[2] for c in cells)))
    calls, error = TOTALS["torchdiffeq", solver][column]
    assert evaluations_for(line, error) <= calls


@pytest.mark.parametrize("name", JUMPING)
def test_jump_times_pay_where_the_right_hand_side_is_not_smooth(name):
    problem = PROBLEMS[name]
    blind, sighted = (
        solve(problem.f, problem.y0, [0.0, 20.0], rtol=1e-9, atol=1e-9, jump_times=jumps)
        for jumps in (None, list(problem.jump_times))
    )
    assert problem.error(sighted.ys[-1]) <= max(problem.error(blind.ys[-1]), 1e-9)
    assert sighted.stats.rejected < blind.stats.rejected


@pytest.mark.parametrize("name", ["lorenz", "lorenz_ones"])
def test_chaos_at_twenty_is_what_its_growth_of_rounding_allows(name):
    problem = PROBLEMS[name]
    end = solve(problem.f, problem.y0, [0.0, 20.0], solver="dopri8", rtol=1e-12, atol=1e-12).ys[-1]
    assert problem.error(end, 20.0) < 1e-3
