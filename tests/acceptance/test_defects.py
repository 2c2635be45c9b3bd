"""Mistakes that other solvers of ODEs in PyTorch make, each with its numbers: not made here."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch._dynamo.utils import counters as dynamo_counters
from torch.utils._python_dispatch import TorchDispatchMode

from ode_core import Event, FixedSteps, PIDController, SolveError, Status, solve
from ode_core.testing.problems import PROBLEMS
from tests.problems import F64, oscillator, van_der_pol

ONE = torch.ones(1, dtype=F64)


def decay(t, y):
    return -y


def rational(t, y):
    """y' = -2 t y^2, solved by 1 / (1 + t^2) from 1: not autonomous and not linear."""
    return -2 * t * y * y


def error_at_one(solver, steps):
    options = {"solver": solver, "controller": FixedSteps(), "dt": 1 / steps}
    return abs(solve(rational, ONE, [0.0, 1.0], **options).ys[-1].item() - 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_states_are_right_at_default_tolerances(dtype):
    # Elsewhere 0.9961 in bfloat16, since increments round to zero, and an underflow in float16.
    end = solve(decay, torch.ones(1, dtype=dtype), [0.0, 1.0]).ys[-1]
    assert end.dtype == dtype
    assert end.item() == pytest.approx(math.exp(-1), rel=torch.finfo(dtype).eps)


def test_gauss_of_order_4_is_of_order_4_where_time_enters_f():
    # Elsewhere both nodes are 1/2 - sqrt(3)/6: errors 1.9e-2 to 2.3e-3, halving with the step.
    errors = [error_at_one("gl4", steps) for steps in (8, 16, 32, 64)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([4, 4, 4], abs=0.2)
    assert errors[0] < 1e-4


THEIR_OUTPUT = {"bosh3": 2.5e-4, "dopri5": 6.6e-6, "tsit5": 4.7e-5, "dopri8": 1.9e-4}


@pytest.mark.parametrize("solver", THEIR_OUTPUT)
def test_output_between_steps_is_as_good_as_the_steps(solver):
    # Elsewhere every method's output is a quartic's, at the end too, and errs by this much.
    times = torch.linspace(0, 10, 401, dtype=F64)
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    options = {"solver": solver, "rtol": 1e-6, "atol": 1e-6}
    log = solve(oscillator, y0, times, record_steps=True, **options).steps
    ends = torch.cat([torch.zeros(1, dtype=F64), log.t[log.accepted] + log.dt[log.accepted]])

    def worst(t):
        exact = torch.stack([t.cos(), -t.sin()], -1)
        return (solve(oscillator, y0, t, **options).ys - exact).abs().max().item()

    assert worst(times) <= 3 * max(worst(ends), 1e-6)
    assert worst(times) < THEIR_OUTPUT[solver]


def test_output_off_the_grid_of_fixed_steps_is_no_straight_line():
    # Elsewhere 2.2e-3 at t = 0.55, with 2e-6 at t = 1.
    ys = solve(lambda t, y: y, ONE, [0.0, 0.55, 1.0], solver="rk4", dt=0.1).ys[:, 0]
    assert abs(ys[1].item() - math.exp(0.55)) < 5e-6
    assert abs(ys[2].item() - math.exp(1.0)) < 3e-6


def test_adams_methods_do_not_diverge_under_refinement():
    # Elsewhere 1e-2, 8e-2, 2.0, 5.6e2, 1.4e5 at these steps.
    for solver in ("adams_bashforth", "adams_moulton"):
        errors = [error_at_one(solver, steps) for steps in (8, 16, 32, 64, 128)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-8


VAN_DER_POL = {1.0: -0.345708995, 3.0: -3.97836057, 5.0: 0.203333764, 10.0: 0.146998860}


def van_der_pol_gradient(mu, gradient):
    """The end's derivative by mu, None where the gradient method says that it cannot."""
    rate = torch.tensor(mu, dtype=F64, requires_grad=True)
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    options = {"gradient": gradient, "args": (rate,), "rtol": 1e-6, "atol": 1e-6}
    end = solve(lambda t, y, m: van_der_pol(m)(t, y), y0, [0.0, 2 * (mu + 1)], **options).ys[-1]
    try:
        return torch.autograd.grad(end[0], rate)[0].item()
    except SolveError:
        return None


def test_a_compiled_field_is_seen_to_be_compiled():
    # Elsewhere compiling the recommended object sees no frame at all, and everything stays eager.
    layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    f = lambda t, y: layers(y)
    y0, options = torch.randn(4, 2), {"solver": "rk4", "dt": 0.25}
    plain = solve(f, y0, [0.0, 1.0], **options).ys
    dynamo_counters.clear()
    found = solve(torch.compile(f, backend="eager"), y0, [0.0, 1.0], **options).ys
    assert not dynamo_counters["graph_break"]
    assert dynamo_counters["frames"]["ok"] > 0
    assert torch.allclose(found, plain)


@pytest.mark.parametrize("mu", VAN_DER_POL)
def test_no_gradient_is_wrong_in_silence(mu):
    # Elsewhere the adjoint gives -6.06e11 at mu = 5 and 9.7e82 at mu = 10.
    right = pytest.approx(VAN_DER_POL[mu], rel=1e-3)
    for gradient in ("direct", "checkpoint"):
        assert van_der_pol_gradient(mu, gradient) == right
    assert van_der_pol_gradient(mu, "adjoint") in (right, None)


def test_an_output_costs_the_adjoint_no_new_start():
    # Elsewhere 110, 254 and 1400 evaluations backward for 2, 11 and 101 outputs.
    costs = {}
    for outputs in (2, 11, 101):
        y0 = ONE.clone().requires_grad_()
        times = torch.linspace(0, 5, outputs, dtype=F64)
        solution = solve(decay, y0, times, gradient="adjoint", rtol=1e-6, atol=1e-6)
        solution.ys[1:].sum().backward()
        assert y0.grad.item() == pytest.approx(times[1:].neg().exp().sum().item(), rel=1e-3)
        costs[outputs] = solution.stats.backward_f_calls
    # A step of six evaluations ends at every output, and little more.
    assert costs[11] <= costs[2] + 9 * 9
    assert costs[101] <= costs[2] + 7 * 99


def test_an_event_between_step_ends_is_not_missed():
    # Elsewhere 64.11: the sign is the same at the ends of every step until then.
    def f(t, y):
        return torch.cos(t).expand(1)

    crossing = Event(lambda t, y: y[0] - 0.9995)
    solution = solve(f, 0 * ONE, [0.0, 100.0], event=crossing, rtol=1e-3, atol=1e-3)
    assert solution.status is Status.EVENT
    assert solution.event.t.item() == pytest.approx(math.asin(0.9995), abs=1e-2)


def test_a_start_on_the_zero_is_no_event():
    # Elsewhere a ball thrown from the ground lands at once.
    def fall(t, y):
        return torch.stack([y[1], torch.full_like(y[1], -9.8)])

    y0 = torch.tensor([0.0, 10.0], dtype=F64)
    solution = solve(fall, y0, [0.0, 10.0], event=Event(lambda t, y: y[0]))
    assert solution.event.t.item() == pytest.approx(20 / 9.8, abs=1e-9)


def test_a_sample_does_not_depend_on_the_others_in_its_batch():
    # Elsewhere sample 0 moves by 1.0e-3 when three others join it.
    def f(t, y):
        return torch.stack([y[:, 1], 5 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], -1)

    torch.manual_seed(0)
    y0 = 2 * torch.randn(4, 2, dtype=F64)
    options = {"rtol": 1e-4, "atol": 1e-4, "stepping": "per_sample"}
    together = solve(f, y0, [0.0, 10.0], **options)
    for i in range(4):
        alone = solve(f, y0[i : i + 1], [0.0, 10.0], **options)
        torch.testing.assert_close(together.ys[:, i], alone.ys[:, 0], rtol=1e-12, atol=1e-12)
        assert together.stats.accepted[i] == alone.stats.accepted[0]


def test_one_failing_sample_leaves_the_others_complete():
    # Elsewhere the healthy sample keeps its status and gets uninitialised memory after t = 1.
    def f(t, y):
        return torch.where(y > 3, math.inf, y)

    y0 = torch.tensor([[2.0], [0.1]], dtype=F64)
    times = torch.linspace(0, 2, 9, dtype=F64)
    options = {"rtol": 1e-8, "atol": 1e-8, "stepping": "per_sample"}
    solution = solve(f, y0, times, on_failure="return", **options)
    assert solution.status[0].failed
    assert solution.status[1] is Status.SUCCESS
    torch.testing.assert_close(solution.ys[:, 1, 0], 0.1 * times.exp(), rtol=1e-6, atol=0)
    reached = times < math.log(1.5) - 0.01
    exact = 2 * times[reached].exp()
    torch.testing.assert_close(solution.ys[reached, 0, 0], exact, rtol=1e-6, atol=0)
    assert bool(solution.ys[times > math.log(1.5), 0].isnan().all())
    with pytest.raises(SolveError, match=r"sample"):
        solve(f, y0, times, **options)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_an_interval_of_length_zero_returns_y0(stepping):
    # Elsewhere NaN with the PID controller.
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    for controller in (PIDController(), PIDController(0.2, 0.5, 0.1)):
        ys = solve(decay, y0, [1.0, 1.0], controller=controller, stepping=stepping).ys
        assert torch.equal(ys, y0.expand(2, 2, 1))
    if stepping == "per_sample":
        rows = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=F64)
        ys = solve(decay, y0, rows, stepping=stepping, rtol=1e-9, atol=1e-9).ys
        assert torch.equal(ys[1, 0], y0[0])
        assert ys[1, 1].item() == pytest.approx(2 * math.exp(-1), rel=1e-8)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_arguments_and_times_get_their_gradients(gradient):
    # Elsewhere they are None, in silence.
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    times = torch.tensor([0.0, 1.5], dtype=F64, requires_grad=True)
    options = {"gradient": gradient, "args": (rate,), "rtol": 1e-9, "atol": 1e-9}
    end = solve(lambda t, y, r: -r * y, ONE, times, **options).ys[-1].sum()
    by_rate, by_time = torch.autograd.grad(end, [rate, times])
    value = math.exp(-0.7 * 1.5)
    assert by_rate.item() == pytest.approx(-1.5 * value, rel=1e-6)
    assert by_time.tolist() == pytest.approx([0.7 * value, -0.7 * value], rel=1e-6)


class Reads(TorchDispatchMode):
    """Counts values read from the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_a_step_reads_one_value_from_the_device(kind):
    # Elsewhere a tolerance in a buffer costs a hidden read a step, and a step 18 reads.
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    rtol = 1e-6 if kind == "number" else torch.full((2,), 1e-6, dtype=F64)
    with Reads() as reads:
        stats = solve(oscillator, y0, [0.0, 20.0], rtol=rtol, atol=1e-6).stats
    assert reads.count <= stats.accepted + stats.rejected + 10


@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_more_outputs_do_not_cost_more_steps(solver):
    # Elsewhere 92, 146, 608 and 6002 evaluations for 2, 11, 101 and 1001 outputs.
    calls, steps = [], []
    for outputs in (2, 11, 101, 1001):
        times = torch.linspace(0, 5, outputs, dtype=F64)
        stats = solve(decay, ONE, times, solver=solver, rtol=1e-6, atol=1e-6).stats
        calls.append(stats.f_calls)
        steps.append(stats.accepted)
    assert len(set(steps)) == 1
    # Order 7 between steps takes dopri8 three more evaluations in a step with output.
    assert max(calls) <= calls[0] + (3 * steps[0] if solver == "dopri8" else 0)


def test_times_come_back_as_they_were_given_and_are_hit_exactly():
    # Elsewhere [-1, -0.5, 0] for [1, 0.5, 0], and outputs are compared by float equality.
    solution = solve(decay, ONE, [1.0, 0.5, 0.0], rtol=1e-9, atol=1e-9)
    assert solution.ts.tolist() == [1.0, 0.5, 0.0]
    assert solution.ys[:, 0].tolist() == pytest.approx([1, math.exp(0.5), math.e], rel=1e-7)
    awkward = [0.1 * i for i in range(11)]
    for solver, options in (("dopri5", {"rtol": 1e-9, "atol": 1e-9}), ("rk4", {"dt": 0.01})):
        ys = solve(decay, ONE, awkward, solver=solver, **options).ys[:, 0]
        assert ys.tolist() == pytest.approx([math.exp(-t) for t in awkward], rel=1e-7)


@pytest.mark.parametrize(
    ("name", "entry", "typo"), [("C5", 9, -165699966404.0), ("E4", None, 0.32)]
)
def test_typing_errors_in_reference_problems_would_show(name, entry, typo):
    # Elsewhere Uranus lost its decimal point in C5, and E4 has 0.32 in place of 0.032.
    problem = PROBLEMS[name]
    options = {"solver": "dopri8", "rtol": 1e-11, "atol": 1e-11}
    end = solve(problem.f, problem.y0, [0.0, 20.0], **options).ys[-1]
    assert problem.error(end) < 1e-9
    f, y0 = problem.f, problem.y0
    if entry is None:

        def f(t, y):
            return torch.stack([y[1], typo - 0.4 * y[1] ** 2])
    else:
        y0[entry] = typo
    assert problem.error(solve(f, y0, [0.0, 20.0], **options).ys[-1]) > 0.1


def test_a_float32_state_can_be_given_its_time_in_float64():
    # Elsewhere time is cast to the state's dtype and nothing changes that.
    start = 2.0**24
    for time_dtype, right in ((F64, True), (None, False)):

        def f(t, y):
            return torch.cos(t - start).to(y.dtype).expand(1)

        options = {"rtol": 1e-5, "atol": 1e-5, "time_dtype": time_dtype}
        end = solve(f, torch.zeros(1), [start, start + 1.0], **options).ys[-1].item()
        assert (abs(end - math.sin(1.0)) < 1e-4) is right


@pytest.mark.parametrize("solver", ["radau5", "gl6"])
def test_implicit_stages_are_solved_to_rounding(solver):
    # Elsewhere a fixed residual of 1e-8 leaves a floor of 1e-10.
    assert error_at_one(solver, 128) < 1e-13


def test_an_implicit_step_of_a_large_batch_holds_no_matrix_of_it_all():
    # Elsewhere the state of the whole batch, 200,000 entries, is one dense system.
    y0 = torch.ones(50_000, 4, dtype=F64)
    y0[:, 1] = 2.0
    rates = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=F64)
    ys = solve(lambda t, y: -rates * y, y0, [0.0, 0.1], solver="trapezoid", dt=0.1).ys
    z = -rates * 0.1
    torch.testing.assert_close(ys[-1], y0 * (1 + z / 2) / (1 - z / 2))
