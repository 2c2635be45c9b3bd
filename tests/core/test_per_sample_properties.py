"""What holds for every batch of per-sample solves, on examples that hypothesis chooses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ode_core import solve
from tests.problems import F64

ADAPTIVE = ("adaptive_heun", "bosh3", "dopri5", "tsit5", "dopri8")
FIXED = ("euler", "midpoint", "heun", "ralston", "rk4", "rk4_38")

every_solver = pytest.mark.parametrize("solver", ADAPTIVE + FIXED)
properties = settings(max_examples=6, deadline=None, derandomize=True)

instants = st.integers(-32, 32).map(lambda n: n / 16)


@st.composite
def grids(draw, least=1):
    """`[B, T]` times, every row its own way, its own length, padded with NaN."""
    batch, size = draw(st.integers(least, 5)), draw(st.integers(2, 4))
    rows = []
    for _ in range(batch):
        row = sorted(draw(st.lists(instants, min_size=1, max_size=size)))
        row = row[::-1] if draw(st.booleans()) else row
        rows.append(row + [math.nan] * (size - len(row)))
    return torch.tensor(rows, dtype=F64).reshape(batch, size)


def states(batch):
    torch.manual_seed(batch)
    return torch.randn(batch, 2, dtype=F64)


def options(solver, batch):
    if solver in FIXED:
        return {"solver": solver, "dt": 0.125 * (1 + torch.arange(batch, dtype=F64) % 3)}
    tolerance = torch.tensor([1e-4, 1e-6, 1e-5, 1e-7, 1e-4], dtype=F64)[:batch]
    if solver == "adaptive_heun":
        # Order 2 takes too many steps for a tight tolerance.
        tolerance = tolerance.clamp(min=1e-3)
    return {"solver": solver, "rtol": tolerance, "atol": tolerance}


def swing(t, y):
    """Acts on each sample alone, neither linear nor autonomous."""
    return torch.stack([y[:, 1] * (1 + t / 4), -torch.sin(y[:, 0]) + torch.cos(3 * t)], -1)


def solved(y0, times, chosen):
    return solve(swing, y0, times, stepping="per_sample", **chosen)


def row(chosen, index):
    return {
        k: v[index : index + 1] if isinstance(v, torch.Tensor) else v for k, v in chosen.items()
    }


@every_solver
@properties
@given(grids())
def test_a_sample_in_a_batch_is_the_sample_alone(solver, times):
    batch = len(times)
    y0, chosen = states(batch), options(solver, batch)
    together = solved(y0, times, chosen)
    for i in range(batch):
        alone = solved(y0[i : i + 1], times[i : i + 1], row(chosen, i))
        torch.testing.assert_close(
            together.ys[:, i], alone.ys[:, 0], rtol=1e-12, atol=1e-13, equal_nan=True
        )
        assert together.stats.accepted[i] == alone.stats.accepted[0]
        assert together.stats.rejected[i] == alone.stats.rejected[0]
        assert together.stats.f_calls[i] == alone.stats.f_calls[0]


@every_solver
@properties
@given(grids())
def test_a_sample_is_what_shared_steps_make_of_it(solver, times):
    y0, chosen = states(len(times)), options(solver, len(times))
    ys = solved(y0, times, chosen).ys

    def single(t, y):
        return swing(t[None], y[None])[0]

    for i in range(len(times)):
        grid = times[i][~times[i].isnan()]
        one = {k: v[i].item() if isinstance(v, torch.Tensor) else v for k, v in chosen.items()}
        shared = solve(single, y0[i], grid, **one).ys
        torch.testing.assert_close(ys[: len(grid), i], shared, rtol=1e-10, atol=1e-11)


@every_solver
@properties
@given(grids())
def test_padding_is_nan_and_times_are_exact(solver, times):
    y0 = states(len(times))
    solution = solved(y0, times, options(solver, len(times)))
    assert solution.ys.shape == (times.shape[1], len(times), 2)
    assert torch.equal(solution.ts.nan_to_num(99.0), times.nan_to_num(99.0))
    assert torch.equal(solution.ys[0], y0)
    assert torch.equal(solution.ys.isnan().all(-1), times.T.isnan())
    assert torch.equal(solution.ys.isnan().any(-1), times.T.isnan())


@every_solver
@properties
@given(grids(), st.data())
def test_samples_can_be_permuted(solver, times, data):
    batch = len(times)
    order = list(data.draw(st.permutations(range(batch))))
    y0, chosen = states(batch), options(solver, batch)
    straight = solved(y0, times, chosen)
    moved = {k: v[order] if isinstance(v, torch.Tensor) else v for k, v in chosen.items()}
    shuffled = solved(y0[order], times[order], moved)
    torch.testing.assert_close(
        shuffled.ys, straight.ys[:, order], rtol=1e-12, atol=1e-13, equal_nan=True
    )
    assert torch.equal(shuffled.stats.accepted, straight.stats.accepted[order])


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.float16, torch.bfloat16])
@properties
@given(times=grids(0))
def test_any_batch_keeps_its_dtype(dtype, times):
    y0 = states(len(times)).to(dtype)
    ys = solve(swing, y0, times, stepping="per_sample", rtol=1e-1, atol=1e-1).ys
    assert ys.dtype == dtype
    assert ys.shape == (times.shape[1], len(times), 2)
    assert torch.equal(ys[0], y0)


@every_solver
@properties
@given(grids())
def test_backwards_is_forwards_in_mirrored_time(solver, times):
    y0, chosen = states(len(times)), options(solver, len(times))
    there = solved(y0, times, chosen).ys
    back = solve(lambda t, y: -swing(-t, y), y0, -times, stepping="per_sample", **chosen).ys
    torch.testing.assert_close(there, back, rtol=1e-13, atol=1e-14, equal_nan=True)
