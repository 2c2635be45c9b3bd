"""What holds for every state, grid, direction and dtype, on examples that hypothesis chooses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ode_core import ArgumentError, SolveError, solve
from tests.problems import F64

ADAPTIVE = ("adaptive_heun", "bosh3", "dopri5", "tsit5", "dopri8")
FIXED = ("euler", "midpoint", "heun", "ralston", "rk4", "rk4_38")
TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
    torch.complex64: 1e-4,
    torch.complex128: 1e-6,
}

# A small number for each solver: hypothesis likes to stay with the one that it has drawn.
every_solver = pytest.mark.parametrize("solver", ADAPTIVE + FIXED)
properties = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

dtypes = st.sampled_from(list(TOLERANCE))
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
seeds = st.integers(0, 1000)
# Sixteenths are exact in every dtype and under every shift.
instants = st.integers(-32, 32).map(lambda n: n / 16)


@st.composite
def grids(draw, size=6):
    """Monotone times, equal ones among them, either way."""
    times = sorted(draw(st.lists(instants, min_size=draw(st.integers(1, 3)), max_size=size)))
    return times[::-1] if draw(st.booleans()) else times


def options(solver, dtype=F64):
    if solver in FIXED:
        return {"solver": solver, "dt": 0.125}
    # Order 2 takes too many steps for a tight tolerance.
    tolerance = max(TOLERANCE[dtype], 1e-3 if solver == "adaptive_heun" else 0.0)
    return {"solver": solver, "rtol": tolerance, "atol": tolerance}


def state(shape, dtype, seed):
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else F64).to(dtype)


def damped(t, y):
    """Acts on every entry alone, is not linear and not autonomous."""
    return torch.cos(3 * t) - y * (0.5 + torch.sin(t)) + y / (1 + (y * y.conj()).real)


@every_solver
@properties
@given(dtypes, shapes, grids(), seeds)
def test_results_begin_with_y0_and_keep_its_shape_and_dtype(solver, dtype, shape, times, seed):
    y0 = state(shape, dtype, seed)
    solution = solve(damped, y0, times, **options(solver, dtype))
    assert solution.ys.shape == (len(times), *shape)
    assert solution.ys.dtype == dtype
    assert torch.equal(solution.ys[0], y0)
    assert bool(torch.isfinite(solution.ys).all())
    assert not solution.ys.requires_grad
    assert solution.ts.tolist() == times
    for i in range(1, len(times)):
        if times[i] == times[i - 1]:
            assert torch.equal(solution.ys[i], solution.ys[i - 1])


@every_solver
@properties
@given(dtypes, grids(), st.floats(-3, 3), seeds)
def test_f_is_never_called_outside_the_interval(solver, dtype, times, shift, seed):
    # In the dtype that f sees; a shift by any float makes ends that it cannot hold exactly.
    times = [time + shift for time in times]
    seen = []

    def f(t, y):
        seen.append(t)
        return damped(t, y)

    solve(f, state((2,), dtype, seed), times, **options(solver, dtype))
    ends = torch.tensor([min(times), max(times)], dtype=F64).to(dtype.to_real())
    for t in seen:
        assert ends[0] <= t <= ends[1]
        assert t.dtype == dtype.to_real()


@every_solver
@properties
@given(dtypes, grids(), seeds)
def test_backwards_is_forwards_in_mirrored_time(solver, dtype, times, seed):
    y0 = state((3,), dtype, seed)
    there = solve(damped, y0, times, **options(solver, dtype)).ys

    def mirrored(s, y):
        return -damped(-s, y)

    back = solve(mirrored, y0, [-time for time in times], **options(solver, dtype)).ys
    assert torch.equal(there, back)


@pytest.mark.parametrize("solver", FIXED)
@properties
@given(st.integers(1, 15), seeds)
def test_a_fixed_step_solve_can_be_cut_at_any_node(solver, node, seed):
    y0, cut = state((2, 2), F64, seed), node / 8
    whole = solve(damped, y0, [0.0, cut, 2.0], solver=solver, dt=0.125).ys
    first = solve(damped, y0, [0.0, cut], solver=solver, dt=0.125).ys[-1]
    second = solve(damped, first, [cut, 2.0], solver=solver, dt=0.125).ys[-1]
    assert torch.equal(whole[1], first)
    assert torch.equal(whole[2], second)


@every_solver
@properties
@given(grids(8), st.data())
def test_fewer_outputs_are_the_same_outputs(solver, times, data):
    """Steps do not depend on where output is wanted, so neither does what is put out."""
    chosen = data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    kept = [i for i in range(len(times)) if chosen[i] or i in (0, len(times) - 1)]
    y0 = state((3,), F64, 1)
    every = solve(damped, y0, times, **options(solver))
    some = solve(damped, y0, [times[i] for i in kept], **options(solver))
    assert torch.equal(every.ys[kept], some.ys)
    assert every.stats.accepted == some.stats.accepted


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_outputs_made_together_are_those_made_alone(solver, dtype):
    """Eight of a step and more are made in one pass."""
    times = [i / 128 for i in range(257)]
    y0 = state((3,), dtype, 1)
    every = solve(damped, y0, times, **options(solver))
    for i in (1, 9, 100, 131, 255):
        alone = solve(damped, y0, [0.0, times[i], times[-1]], **options(solver))
        assert torch.equal(every.ys[i], alone.ys[1])


@every_solver
@properties
@given(st.integers(-64, 64), grids(), seeds)
def test_time_shifts_with_an_autonomous_field(solver, shift, times, seed):
    def f(t, y):
        return torch.sin(y) - y

    y0 = state((4,), F64, seed)
    here = solve(f, y0, times, **options(solver)).ys
    later = solve(f, y0, [time + shift for time in times], **options(solver)).ys
    # Times round differently there, and with them the choice of steps.
    slack = 1e-12 if solver in FIXED else 1e-8
    torch.testing.assert_close(here, later, rtol=slack, atol=slack)


@every_solver
@properties
@given(st.integers(-20, 20), grids(), seeds)
def test_a_linear_field_scales_to_the_bit(solver, exponent, times, seed):
    def f(t, y):
        return y * torch.cos(t) - 2 * y.flip(0)

    y0, scale = state((4,), F64, seed), 2.0**exponent
    both = options(solver)
    small = solve(f, y0, times, **both).ys
    if solver in ADAPTIVE:
        both["atol"] *= scale
    assert torch.equal(solve(f, y0 * scale, times, **both).ys, small * scale)


@every_solver
@properties
@given(st.integers(1, 9), grids(), st.data())
def test_rows_can_be_permuted(solver, batch, times, data):
    order = data.draw(st.permutations(range(batch)))
    y0 = state((batch, 2), F64, batch)
    straight = solve(damped, y0, times, **options(solver)).ys
    shuffled = solve(damped, y0[list(order)], times, **options(solver)).ys
    torch.testing.assert_close(shuffled, straight[:, list(order)], rtol=1e-9, atol=1e-10)


@every_solver
@properties
@given(st.tuples(st.integers(1, 3), st.integers(1, 3)), grids(), seeds)
def test_a_structured_state_is_its_flat_one(solver, sizes, times, seed):
    first, second = sizes
    flat = state((first + second,), F64, seed)

    def f(t, y):
        return {"a": damped(t, y["a"]), "b": [damped(t, y["b"][0])]}

    start = {"a": flat[:first], "b": [flat[first:].reshape(1, second)]}
    ys = solve(f, start, times, **options(solver)).ys
    packed = torch.cat([ys["a"], ys["b"][0][:, 0]], -1)
    assert torch.equal(packed, solve(damped, flat, times, **options(solver)).ys)


@properties
@given(st.lists(instants, min_size=3, max_size=6))
def test_times_that_turn_round_are_refused(times):
    assume(times not in (sorted(times), sorted(times, reverse=True)))
    with pytest.raises(ArgumentError, match="runs one way"):
        solve(damped, torch.ones(1), times)


@pytest.mark.parametrize("solver", ADAPTIVE[1:])
@properties
@given(grids(), seeds, st.integers(5, 8))
def test_errors_follow_the_tolerance_at_every_output(solver, times, seed, digits):
    def f(t, y):
        # Neither way in time does this spread neighbours far apart.
        return torch.cos(3 * t) * torch.cos(y)

    y0, tolerance = state((3,), F64, seed), 10.0**-digits
    rough = solve(f, y0, times, solver=solver, rtol=tolerance, atol=tolerance).ys
    fine = solve(f, y0, times, solver="dopri8", rtol=1e-12, atol=1e-12).ys
    assert ((rough - fine).abs() / (1 + fine.abs())).max() <= 30 * tolerance


@properties
@given(st.integers(1, 30))
def test_max_steps_is_a_limit_on_attempts(limit):
    try:
        stats = solve(damped, torch.ones(2, dtype=F64), [0.0, 4.0], max_steps=limit).stats
    except SolveError as failure:
        stats = failure.solution.stats
        assert stats.accepted + stats.rejected == limit
    assert stats.accepted + stats.rejected <= limit
