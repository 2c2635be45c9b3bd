"""One step size, tolerance, grid, direction, jump list and failure for each sample."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, PIDController, SolveError, Status, solve
from tests.problems import F64

SAMPLES = dict(stepping="per_sample")


def vdp(mu):
    def f(t, y):
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return f


def starts(count):
    return torch.stack([torch.linspace(0.5, 2, count, dtype=F64), torch.zeros(count, dtype=F64)], 1)


@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3", "dopri8", "adaptive_heun"])
def test_a_sample_in_a_batch_is_the_sample_alone(solver):
    times = torch.linspace(0, 6, 7, dtype=F64)
    y0 = starts(6)
    tolerance = 1e-2 if ode_core.solvers[solver].order < 3 else 1e-5
    options = dict(solver=solver, rtol=tolerance, atol=tolerance)
    batch = solve(vdp(3.0), y0, times, **options, **SAMPLES)
    for i, y in enumerate(y0):
        alone = solve(vdp(3.0), y[None], times, **options, **SAMPLES)
        shared = solve(vdp(3.0), y, times, **options)
        assert (batch.ys[:, i] - alone.ys[:, 0]).abs().max() < 1e-12
        assert (batch.ys[:, i] - shared.ys).abs().max() < 1e-6
        for count in ("f_calls", "accepted", "rejected"):
            assert getattr(batch.stats, count)[i] == getattr(alone.stats, count)[0]
        assert batch.stats.accepted[i].item() == shared.stats.accepted
        assert batch.stats.rejected[i].item() == shared.stats.rejected


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4"])
def test_fixed_steps_fall_on_each_samples_own_nodes(solver):
    times = torch.tensor([[0.0, 1.0, 2.05], [0.5, 0.7, 3.0], [2.0, 1.5, -1.0]], dtype=F64)
    y0 = starts(3)
    batch = solve(vdp(1.0), y0, times, solver=solver, dt=0.1, **SAMPLES)
    for i in range(3):
        alone = solve(vdp(1.0), y0[i], times[i], solver=solver, dt=0.1)
        assert torch.allclose(batch.ys[:, i], alone.ys, atol=1e-13)
        assert batch.stats.accepted[i].item() == alone.stats.accepted


def test_own_grids_directions_and_padding():
    nan = math.nan
    times = torch.tensor(
        [[0, 1, 2, 5], [3, 2, nan, nan], [0, 0, 4, nan], [7, nan, nan, nan]], dtype=F64
    )
    y0 = torch.ones(4, 2, dtype=F64)
    solution = solve(lambda t, y: -y, y0, times, rtol=1e-10, atol=1e-10, **SAMPLES)
    exact = torch.exp(times[:, :1] - times).T[..., None].expand(-1, -1, 2)
    assert torch.allclose(solution.ys, exact, atol=1e-8, equal_nan=True)
    assert solution.status == (Status.SUCCESS,) * 4
    assert torch.equal(solution.ts.nan_to_num(), times.nan_to_num())


def test_own_tolerances_cost_their_own_steps():
    rtol = torch.tensor([1e-3, 1e-10], dtype=F64)
    solution = solve(vdp(1.0), starts(1).expand(2, 2), [0.0, 9.0], rtol=rtol, atol=rtol, **SAMPLES)
    loose, tight = solution.stats.f_calls.tolist()
    assert tight > 5 * loose
    alone = solve(vdp(1.0), starts(1)[0], [0.0, 9.0], rtol=1e-10, atol=1e-10)
    assert torch.allclose(solution.ys[-1, 1], alone.ys[-1], atol=1e-12)


def test_own_first_steps():
    dt = torch.tensor([1e-3, 1e-1], dtype=F64)
    log = solve(vdp(1.0), starts(2), [0.0, 1.0], dt=dt, record_steps=True, **SAMPLES).steps
    first = [log.dt[log.sample == i][0].item() for i in range(2)]
    assert first == [1e-3, 1e-1]


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_one_failure_leaves_the_others_complete(method):
    y0 = torch.tensor([[1.0], [0.1], [0.5]], dtype=F64)
    options = dict(solver=method, rtol=1e-8, atol=1e-8)
    solution = solve(lambda t, y: y * y, y0, [0.0, 0.5, 1.5], on_failure="return", **options,
                     **SAMPLES)  # fmt: skip
    assert [status.failed for status in solution.status] == [True, False, False]
    assert solution.ys[1, 0].item() == pytest.approx(2.0, rel=1e-6)
    assert solution.ys[2, 0].isnan()
    assert torch.allclose(solution.ys[-1, 1:], 1 / (1 / y0[1:] - 1.5), rtol=1e-6)
    with pytest.raises(SolveError, match=r"1 of 3 samples: sample 0 stopped at t = 1; it needs"):
        solve(lambda t, y: y * y, y0, [0.0, 0.5, 1.5], **options, **SAMPLES)


def test_a_sample_that_is_not_finite_is_named_and_the_gradients_of_others_are_clean():
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def f(t, y):
        return rate * y + torch.where(y > 3, math.inf, 0.0)

    y0 = torch.tensor([[0.1], [2.0]], dtype=F64, requires_grad=True)
    solution = solve(f, y0, [0.0, 1.0], on_failure="return", **SAMPLES)
    assert solution.status == (Status.SUCCESS, Status.NOT_FINITE)
    grads = torch.autograd.grad(solution.ys[-1, 0, 0], [y0, rate])
    assert grads[0][0].item() == pytest.approx(math.e, rel=1e-4)
    assert grads[0][1].item() == 0.0
    assert grads[1].item() == pytest.approx(0.1 * math.e, rel=1e-4)


def test_max_steps_counts_for_each_sample():
    y0 = starts(2)
    times = torch.tensor([[0.0, 0.1], [0.0, 50.0]], dtype=F64)
    solution = solve(vdp(1.0), y0, times, max_steps=20, on_failure="return", **SAMPLES)
    assert solution.status == (Status.SUCCESS, Status.MAX_STEPS)
    assert (solution.stats.accepted + solution.stats.rejected)[1].item() == 20


def test_finished_samples_leave_the_batch_that_f_sees():
    seen = []

    def f(t, y):
        seen.append(len(y))
        return -y

    times = torch.tensor([[0.0, 0.1 * 2**i] for i in range(8)], dtype=F64)
    stats = solve(f, torch.ones(8, 3, dtype=F64), times, rtol=1e-9, atol=1e-9, **SAMPLES).stats
    assert seen[0] == 8
    assert seen[-1] == 1
    assert sum(seen) < 0.7 * 8 * len(seen)
    assert stats.f_calls.max().item() <= len(seen)


@pytest.mark.parametrize("rows", [8, 1])
def test_an_f_that_knows_the_whole_batch_keeps_it(rows):
    rates = torch.linspace(0.5, 2, 8, dtype=F64)[:, None][-rows:]
    seen = set()

    def f(t, y):
        seen.add(len(y))
        return -rates * y

    times = torch.tensor([[0.0, 0.1 * 2**i] for i in range(8)], dtype=F64)
    y0 = torch.ones(8, 1, dtype=F64)
    solution = solve(f, y0, times, rtol=1e-9, atol=1e-9, **SAMPLES)
    exact = torch.exp(-rates * times[:, 1:])
    assert torch.allclose(solution.ys[-1], exact, atol=1e-7)


def test_jump_times_of_each_sample():
    jumps = torch.tensor([[0.3, 0.6], [0.8, math.nan]], dtype=F64)
    marks = torch.tensor([[0.3, 0.6], [0.8, 9.0]], dtype=F64)

    def f(t, y):
        return ((t[:, None] > marks).sum(1).to(y.dtype) - 1.0)[:, None].expand_as(y)

    y0 = torch.zeros(2, 1, dtype=F64)
    options = dict(rtol=1e-10, atol=1e-10, **SAMPLES)
    aware = solve(f, y0, [0.0, 1.0], jump_times=jumps, **options)
    plain = solve(f, y0, [0.0, 1.0], **options)
    assert torch.allclose(aware.ys[-1, :, 0], torch.tensor([0.1, -0.8], dtype=F64), atol=1e-12)
    assert bool((aware.stats.f_calls < plain.stats.f_calls).all())
    assert aware.stats.rejected.tolist() == [0, 0]


@pytest.mark.parametrize("jump", [None, [0.4]])
def test_f_is_never_called_outside_a_samples_interval(jump):
    times = torch.tensor([[0.1, 0.7], [0.9, 0.2], [0.3, 0.35]], dtype=F64)
    low, high = times.min(1).values.float(), times.max(1).values.float()

    def f(t, y):
        assert t.shape == y.shape[:1]
        if len(t) == 3:
            assert bool(((low <= t) & (t <= high)).all())
        return y.cos() * t[:, None]

    solve(f, torch.ones(3, 2), times, jump_times=jump, **SAMPLES)


def test_structured_states_and_their_tolerances():
    y0 = {"q": torch.ones(3, 2, dtype=F64), "v": torch.zeros(3, dtype=F64)}

    def f(t, s):
        assert s["v"].shape == t.shape
        return {"q": -s["q"], "v": s["q"].sum(1)}

    solution = solve(f, y0, [0.0, 1.0], rtol=1e-9, atol={"q": 1e-9, "v": 1e-9}, **SAMPLES)
    assert solution.ys["q"].shape == (2, 3, 2)
    assert torch.allclose(solution.ys["v"][-1], torch.full((3,), 2 * (1 - math.exp(-1)), dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128])
def test_other_dtypes(dtype):
    y0 = torch.ones(4, 3, dtype=dtype)
    ys = solve(lambda t, y: -y, y0, [0.0, 1.0], rtol=1e-2, atol=1e-3, **SAMPLES).ys
    assert ys.dtype == dtype
    assert (ys[-1].abs().double() - math.exp(-1)).abs().max() < 2e-2


def test_empty_batches_and_states_without_features():
    assert solve(lambda t, y: -y, torch.ones(0, 3), [0.0, 1.0], **SAMPLES).ys.shape == (2, 0, 3)
    ys = solve(lambda t, y: -y, torch.ones(4, dtype=F64), [0.0, 1.0], **SAMPLES).ys
    assert torch.allclose(ys[-1], torch.tensor(math.exp(-1), dtype=F64), atol=1e-4)


def test_gradients_reach_states_parameters_and_every_time():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    times = torch.tensor([[0.0, 0.5, 1.5], [2.0, 1.0, math.nan]], dtype=F64, requires_grad=True)

    def f(t, y):
        return -rate * y * t[:, None]

    def run(y0, rate_, times):
        nonlocal rate
        rate = rate_
        return solve(f, y0, times, rtol=1e-11, atol=1e-11, **SAMPLES).ys.nan_to_num()

    def exact(y0, rate_, times):
        known = times.nan_to_num()
        return (y0 * torch.exp(rate_ * (known[:, :1] ** 2 - known**2) / 2)).T[..., None]

    inputs = (y0, rate, times)
    weights = torch.tensor([[0.3, 0.7], [1.0, 2.0], [0.5, 0.0]], dtype=F64)[..., None]
    found = torch.autograd.grad((run(*inputs) * weights).sum(), inputs)
    wanted = torch.autograd.grad((exact(*inputs) * weights).sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a.nan_to_num(), b.nan_to_num(), atol=1e-7)


def test_gradcheck_with_rejected_steps():
    def end(y0):
        return solve(vdp(4.0), y0, [0.0, 2.0], rtol=1e-9, atol=1e-9, **SAMPLES).ys[-1]

    y0 = starts(3).requires_grad_()
    assert solve(vdp(4.0), y0, [0.0, 2.0], rtol=1e-9, atol=1e-9, **SAMPLES).stats.rejected.any()
    assert torch.autograd.gradcheck(end, (y0,), atol=1e-5)


def test_interpolate_at_own_times():
    y0 = starts(4)
    times = torch.linspace(0, 5, 9, dtype=F64)
    solution = solve(vdp(1.0), y0, times, dense=True, **SAMPLES)
    assert torch.allclose(solution.interpolate(times), solution.ys, atol=1e-14)
    assert solution.interpolate(2.2).shape == (4, 2)
    own = torch.rand(4, 3, dtype=F64) * 5
    states = solution.interpolate(own)
    assert states.shape == (3, 4, 2)
    assert torch.allclose(states[1, 2], solution.interpolate(own[2, 1].item())[2], atol=1e-14)
    with pytest.raises(ArgumentError, match=r"t = 6.0 lies outside of the solve of sample 0"):
        solution.interpolate(6.0)
    assert torch.equal(pickle.loads(pickle.dumps(solution)).ys, solution.ys)


def test_the_step_log_says_whose_step_it_was():
    solution = solve(vdp(3.0), starts(3), [0.0, 5.0], record_steps=True, **SAMPLES)
    log = solution.steps
    for i in range(3):
        mine = log.sample == i
        assert int((mine & log.accepted).sum()) == solution.stats.accepted[i].item()
        assert int((mine & ~log.accepted).sum()) == solution.stats.rejected[i].item()
        assert log.dt[mine & log.accepted].sum().item() == pytest.approx(5.0)


def test_the_state_goes_on_where_the_solve_ended():
    times = torch.tensor([[0.0, 4.0], [0.0, 3.0]], dtype=F64)
    first = solve(vdp(1.0), starts(2), times, rtol=1e-9, atol=1e-9, **SAMPLES)
    later = torch.tensor([[4.0, 6.0], [3.0, 6.0]], dtype=F64)
    second = solve(vdp(1.0), first.state, later, rtol=1e-9, atol=1e-9, **SAMPLES)
    whole = solve(vdp(1.0), starts(2), [0.0, 6.0], rtol=1e-9, atol=1e-9, **SAMPLES)
    assert torch.allclose(second.ys[-1], whole.ys[-1], atol=1e-7)
    searched = solve(vdp(1.0), first.ys[-1], later, rtol=1e-9, atol=1e-9, **SAMPLES)
    assert bool((second.stats.f_calls < searched.stats.f_calls).all())


def test_running_integrals_of_each_sample():
    times = torch.tensor([[0.0, 0.3, 2.0], [1.0, 0.5, math.nan]], dtype=F64)
    solution = solve(
        lambda t, y: -y, torch.ones(2, 1, dtype=F64), times, integrand=lambda t, y: y[:, 0],
        rtol=1e-10, atol=1e-10, **SAMPLES,
    )  # fmt: skip
    exact = (1 - torch.exp(times[:, :1] - times)).T
    assert torch.allclose(solution.integrals, exact, atol=1e-8, equal_nan=True)


class OneError:
    """A controller that knows floats only."""

    def init(self):
        return None

    def judge(self, error, order, memory):
        return error <= 1, 0.9, memory


class SharedSteps:
    name, exact = "shared", True

    def check(self, problem, plan):
        raise AssertionError

    solve = check


def test_what_cannot_be_per_sample_is_refused():
    y0 = starts(2)
    with pytest.raises(ode_core.UnsupportedError, match="OneError judges one error at a time"):
        solve(vdp(1.0), y0, [0.0, 1.0], controller=OneError(), **SAMPLES)
    with pytest.raises(ode_core.UnsupportedError, match="method shared takes shared steps only"):
        solve(vdp(1.0), y0, [0.0, 1.0], gradient=SharedSteps(), **SAMPLES)
    with pytest.raises(ArgumentError, match="is one grid for all"):
        solve(vdp(1.0), y0, [0.0, 1.0], solver="rk4", controller=FixedSteps([0, 1]), **SAMPLES)
    with pytest.raises(ArgumentError, match="dim 0 of every tensor"):
        solve(lambda t, y: y, (y0, torch.ones(3, dtype=F64)), [0.0, 1.0], **SAMPLES)
    with pytest.raises(ArgumentError, match=r"a row for each of the 2 samples"):
        solve(vdp(1.0), y0, torch.zeros(3, 2), **SAMPLES)
    with pytest.raises(ArgumentError, match="row 1 is"):
        solve(vdp(1.0), y0, torch.tensor([[0, 1, 2], [0, 2, 1.0]]), **SAMPLES)
    with pytest.raises(ArgumentError, match="padded at their end with NaN"):
        solve(vdp(1.0), y0, torch.tensor([[0, 1, 2], [0, math.nan, 1.0]]), **SAMPLES)
    with pytest.raises(ArgumentError, match="stepping is 'shared' or 'per_sample'"):
        solve(vdp(1.0), y0, [0.0, 1.0], stepping="both")


def test_pid_and_limits_are_each_samples_own():
    controller = PIDController(pcoeff=0.2, icoeff=0.5, dt_max=0.05)
    y0 = starts(3)
    solution = solve(vdp(1.0), y0, [0.0, 1.0], controller=controller, record_steps=True, **SAMPLES)
    assert solution.steps.dt.max().item() <= 0.05 + 1e-15
    for i in range(3):
        alone = solve(vdp(1.0), y0[i], [0.0, 1.0], controller=controller)
        assert torch.allclose(solution.ys[-1, i], alone.ys[-1], atol=1e-14)
