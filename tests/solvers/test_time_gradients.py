"""With given steps exact methods differentiate the discrete solve in time, as differences do."""

from __future__ import annotations

import pytest
import torch

import ode_core
from ode_core import Compile, Event, FixedSteps, Step, solve
from ode_solvers import Reversible
from tests.problems import F64, flat

# Those that take times through their steps; `auto` has a history and does not.
SOLVERS = [n for n, r in ode_core.solvers.items() if r.differentiable and n != "auto"]
SOME = ["euler", "midpoint", "rk4", "dopri5", "trapezoid", "adams_moulton", "leapfrog"]
MIXED = torch.tensor([[0.1, -1.0], [1.2, -0.2]], dtype=F64)
TIMES = {"forwards": (0.0, 0.25, 0.31, 0.77), "backwards": (0.8, 0.55, 0.13, 0.03)}


def f(t, y):
    return torch.sin(y @ MIXED.T) * (1 + 0.5 * torch.cos(3 * t))


def pendulum(t, pair):
    return pair[1], -pair[0].sin() * (1 + 0.5 * torch.cos(3 * t))


def states(t, solver, gradient="direct", y0=(1.0, 0.4), dtype=F64, **options):
    start = torch.tensor(y0, dtype=dtype)
    if isinstance(solver, str) and ode_core.solvers[solver].takes_pairs:
        return flat(solve(pendulum, (start, 0.3 * start), t, solver=solver, gradient=gradient,
                          **options).ys)  # fmt: skip
    return solve(f, start, t, solver=solver, gradient=gradient, **options).ys


def given(solver, **options):
    """Steps of a given size, for adaptive solvers too."""
    return {"dt": 0.1, "controller": FixedSteps()} | options


def is_derivative(run, times):
    """Whether the gradient in each time is the quotient of differences."""
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    return torch.autograd.gradcheck(run, (t,), eps=1e-6, atol=1e-8, rtol=1e-6)


def in_time(gradient, times, dtype=F64, solver="rk4", **options):
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    ys = states(t, solver, gradient, dtype=dtype, **options)
    weights = torch.arange(1.0, 1.0 + ys.numel(), dtype=dtype).reshape(ys.shape)
    return torch.autograd.grad((ys * weights).sin().sum(), t)[0]


@pytest.mark.parametrize("way", TIMES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_direct_is_the_quotient_of_differences(solver, way):
    """Outputs within steps, the last step shorter."""
    assert is_derivative(lambda t: states(t, solver, **given(solver)), TIMES[way])


@pytest.mark.parametrize("gradient", ["checkpoint", "symplectic"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_replays_give_the_same(solver, gradient):
    """Outputs on nodes and within steps, a jump, equal times."""
    options = given(solver, jump_times=[0.43])
    times = (0.0, 0.2, 0.2, 0.35, 0.81, 0.81)
    exact = in_time("direct", times, solver=solver, **options)
    found = in_time(gradient, times, solver=solver, **options)
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("solver", SOME)
def test_at_jumps_and_in_one_step(solver):
    """Both sides of a jump stand still, so that the steps beside it change their size."""

    def kinked(t, y):
        return f(t, y) + (t > 0.33)

    def run(t, **options):
        start = torch.tensor([1.0, 0.4], dtype=F64)
        return solve(kinked, start, t, solver=solver, **given(solver, **options)).ys

    times = (0.0, 0.25, 0.36, 0.77)
    assert is_derivative(lambda t: run(t, jump_times=[0.33]), times)
    assert is_derivative(lambda t: run(t, dt=2.0), (0.4, 0.55, 0.9))


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
@pytest.mark.parametrize("solver", SOME)
def test_nodes_of_a_grid_move_with_the_times_that_they_equal(solver, gradient):
    def run(t):
        a, _, c, d = t.tolist()
        grid = FixedSteps([a, 0.1, 0.27, c, 0.6, d])
        return states(t, solver, gradient, controller=grid)

    assert is_derivative(run, (0.0, 0.2, 0.4, 0.77))


@pytest.mark.parametrize("solver", ["alf", "reversible_heun", Reversible("dopri5")], ids=str)
def test_the_reversible_method_gives_the_same(solver):
    options = given(solver, jump_times=[0.43])
    times = (0.0, 0.2, 0.35, 0.81)
    exact = in_time("direct", times, solver=solver, **options)
    assert torch.allclose(in_time("reversible", times, solver=solver, **options), exact, rtol=1e-8)
    assert is_derivative(lambda t: states(t, solver, **options), (0.0, 0.25, 0.35, 0.81))


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5", "trapezoid"])
def test_a_time_on_a_node_moves_along_the_steps_own_polynomial(solver):
    """Its slope there is f on both sides."""
    t = torch.tensor([0.0, 0.2, 0.5], dtype=F64, requires_grad=True)
    ys = states(t, solver, **given(solver))
    for k in (0, 1):
        (moved,) = torch.autograd.grad(ys[1, k], t, retain_graph=True)
        assert moved[1].item() == pytest.approx(
            f(torch.tensor(0.2, dtype=F64), ys[1])[k].item(), rel=1e-9
        )
        assert moved[2] == 0.0


def test_values_do_not_depend_on_whether_times_are_differentiated():
    for solver in SOLVERS:
        options = given(solver, jump_times=[0.43])
        t = torch.tensor([0.0, 0.2, 0.51, 0.81], dtype=F64)
        plain = states(t, solver, **options)
        timed = states(t.clone().requires_grad_(), solver, **options)
        assert torch.allclose(timed, plain, rtol=1e-13, atol=1e-14), solver


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.complex64])
@pytest.mark.parametrize("solver", ["rk4", "dopri5", "leapfrog", "adams_bashforth", "alf"])
def test_other_dtypes(solver, dtype):
    def gradient(dtype):
        t = torch.tensor([0.0, 0.25, 0.77], dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.4], dtype=F64).to(dtype)
        rate = 1j if dtype.is_complex else 1.0
        ys = solve(lambda t, y: rate * y.sin() * t.cos(), y0, t, solver=solver, **given(solver)).ys
        assert ys.dtype == dtype
        return torch.autograd.grad(ys[1:].abs().sum(), t)[0]

    wide = gradient(torch.complex128 if dtype.is_complex else F64)
    assert torch.allclose(gradient(dtype), wide, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["rk4", "dopri5", "leapfrog", "adams_bashforth", "alf"])
def test_a_state_that_is_one_number(solver):
    def run(t):
        y0 = torch.tensor(0.7, dtype=F64)
        return solve(lambda t, y: y.sin() * t.cos(), y0, t, solver=solver, **given(solver)).ys

    assert is_derivative(run, (0.0, 0.25, 0.77))


def test_second_derivatives_in_time():
    def run(t, gradient="direct"):
        return states(t, "rk4", gradient, dt=0.1)

    t = torch.tensor([0.0, 0.25, 0.77], dtype=F64, requires_grad=True)
    for gradient in ("direct", "checkpoint"):
        assert torch.autograd.gradgradcheck(lambda t: run(t, gradient), (t,))  # noqa: B023


def test_torch_func_goes_through_times():
    t = torch.tensor([0.0, 0.25, 0.77], dtype=F64)
    exact = torch.autograd.functional.jacobian(lambda t: states(t, "rk4", dt=0.1), t)
    assert torch.allclose(torch.func.jacrev(lambda t: states(t, "rk4", dt=0.1))(t), exact)


def test_interpolation_stands_still_where_the_solve_moves():
    def run(t):
        y0 = torch.tensor([1.0, 0.4], dtype=F64)
        solution = solve(f, y0, t, solver="rk4", dt=0.1, dense=True)
        return solution.interpolate([0.27, 0.74])

    assert is_derivative(run, (0.0, 0.31, 0.77))


class TwoStep:
    """A stranger's method with a history, which counts on times that are numbers."""

    name, order, adaptive, implicit, one_step = "two steps", 2, False, False, False

    def init(self, f, t, y):
        return {"slope": f(t, y), "size": torch.zeros((), dtype=F64)}

    def step(self, f, t0, t1, y, carry, tolerance):
        assert isinstance(t0, float)
        slope, h, size = f(t0, y), t1 - t0, float(carry["size"].detach())
        ratio = 0.5 * h / size if size else 0.0
        y1 = y + h * ((1.0 + ratio) * slope - ratio * carry["slope"])
        return Step(y1, None, {"slope": slope, "size": torch.tensor(h, dtype=F64)}, None)


class Heun(TwoStep):
    """A stranger's method that starts from a state alone, and knows nothing of moving times."""

    name, one_step = "Heun's", True

    def init(self, f, t, y):
        return (f(t, y),)

    def step(self, f, t0, t1, y, carry, tolerance):
        assert isinstance(t0, float)
        h, slope = t1 - t0, carry[0]
        y1 = y + 0.5 * h * (slope + f(t1, y + h * slope))
        return Step(y1, None, (f(t1, y1),), None)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "symplectic"])
def test_a_strangers_method_that_starts_from_a_state_is_differentiated_too(gradient):
    assert is_derivative(
        lambda t: states(t, Heun(), gradient, dt=0.1, jump_times=[0.43]), TIMES["forwards"]
    )


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_one_with_a_history_moves_states_along_f(gradient):
    t = torch.tensor([0.0, 0.25, 0.77], dtype=F64, requires_grad=True)
    ys = states(t, TwoStep(), gradient, dt=0.01)
    (found,) = torch.autograd.grad(ys[-1, 0], t)
    assert found[2].item() == pytest.approx(
        f(torch.tensor(0.77, dtype=F64), ys[-1])[0].item(), rel=1e-9
    )
    (exact,) = torch.autograd.grad(states(t, "dopri8", rtol=1e-10, atol=1e-10)[-1, 0], t)
    assert torch.allclose(found, exact, atol=1e-3)


def test_the_step_before_the_end_costs_one_evaluation_more_and_others_none():
    t = torch.tensor([0.0, 0.25], dtype=F64)
    calls = [
        solve(f, torch.ones(2, dtype=F64), t.clone().requires_grad_(timed), solver="dopri5",
              **given("dopri5")).stats.f_calls
        for timed in (False, True)
    ]  # fmt: skip
    assert calls == [19, 20]


def test_programs_leave_times_to_what_converges():
    t = torch.tensor([0.0, 0.25, 0.77], dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.4], dtype=F64)
    program = Compile("step", backend="aot_eager")
    ys = solve(f, y0, t, solver="rk4", dt=0.05, compile=program).ys
    weights = torch.arange(1.0, 1.0 + ys.numel(), dtype=F64).reshape(ys.shape)
    (found,) = torch.autograd.grad((ys * weights).sin().sum(), t)
    exact = in_time("direct", (0.0, 0.25, 0.77), dt=0.05)
    assert torch.allclose(found, exact, atol=1e-3)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_integrals_move_with_both_of_their_ends(solver, gradient):
    steps = {"dt": 0.02} if solver == "rk4" else {"rtol": 1e-10, "atol": 1e-10}

    def run(t, event=None):
        y0 = torch.tensor([1.0, 0.4], dtype=F64)
        return solve(f, y0, t, solver=solver, gradient=gradient, event=event, **steps,
                     integrand=lambda t, y: torch.stack([t * y[0], y[1]])).integrals  # fmt: skip

    times = torch.tensor([0.1, 0.31, 0.62, 0.77], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (times,), eps=1e-5, atol=1e-5)
    twice = [Event(lambda t, y, at=at: t - at, reset=lambda t, y: y) for at in (0.5, 0.7)]
    assert torch.autograd.gradcheck(lambda t: run(t, twice), (times,), eps=1e-5, atol=1e-5)
