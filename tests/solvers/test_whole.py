"""Whole solves in one launch are the loop's: the same steps, states, statuses and gradients."""

from __future__ import annotations

import math

import pytest
import torch

import ode_core
from ode_core import ArgumentError, FixedSteps, PIDController, solve
from ode_solvers.explicit import RungeKutta
from ode_solvers.fields import ElementwiseField, MLPField
from ode_solvers.kernels.choose import named
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.whole import kernel as starting
from tests.problems import F64

WHOLE = type(named("whole"))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a program fails to write is seen: it holds NaN, or a number that none is."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)

        def filled(*given, _make=make, **named):
            made = _make(*given, **named)
            return made.fill_(math.nan if made.is_floating_point() else -777_777)

        monkeypatch.setattr(torch, name, filled)


@pytest.fixture
def launches(monkeypatch):
    """The names of the programs that were started."""
    started = []
    launch = WHOLE.launch

    def counting(self, kernel, *arguments):
        started.append(kernel.__name__)
        return launch(self, kernel, *arguments)

    monkeypatch.setattr(WHOLE, "launch", counting)
    return started


def pendulum(t, y, drag, pull):
    angle, speed = y
    return speed, -drag * speed - pull * torch.sin(angle) + torch.cos(3.0 * t)


def growing(t, y, power):
    return power * y * y


def swinging(batch=3, dtype=F64):
    """A field with a parameter for all samples, and one of each."""
    drag = torch.nn.Parameter(torch.tensor(0.3, dtype=dtype))
    pull = torch.nn.Parameter(torch.linspace(1.0, 4.0, batch, dtype=dtype))
    return ElementwiseField(pendulum, size=2, drag=drag, pull=pull).to(DEVICE)


def start(batch=3, size=2, dtype=F64):
    return torch.linspace(-1.0, 1.5, batch * size, dtype=dtype, device=DEVICE).view(batch, size)


def solved(kernel, f, y0, t, solver, **options):
    y0 = y0.clone().requires_grad_()
    made = ode_core.solvers.create(solver, kernel=kernel)
    solution = solve(f, y0, t, solver=made, stepping="per_sample", **options)
    weights = torch.linspace(0.5, 2.0, solution.ys.numel(), dtype=y0.dtype, device=DEVICE)
    loss = (solution.ys.nan_to_num().square() * weights.view_as(solution.ys)).sum()
    tensors = [y0, *(x for x in f.parameters() if x.requires_grad)]
    return solution, torch.autograd.grad(loss, tensors)


def compare(f, y0, t, solver="dopri5", slack=1e-11, samples=2, **options):
    whole, found = solved(WHOLE(samples=samples), f, y0, t, solver, **options)
    loop, wanted = solved("reference", f, y0, t, solver, **options)
    for name in ("accepted", "rejected", "f_calls"):
        assert torch.equal(getattr(whole.stats, name), getattr(loop.stats, name)), name
    assert whole.status == loop.status
    assert torch.allclose(whole.ys, loop.ys, rtol=slack, atol=slack, equal_nan=True)
    for mine, theirs in zip(found, wanted, strict=True):
        scale = theirs.abs().max().clamp_min(1.0)
        assert float((mine - theirs).abs().max() / scale) < 10 * slack
    return whole, loop


@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3", "adaptive_heun"])
def test_adaptive_steps_of_systems(solver, launches):
    # The first step is far too long; outputs lie within steps, and two in one.
    allowed = 1e-4 if solver in ("dopri5", "tsit5") else 1e-2
    whole, _ = compare(swinging(), start(), [0.0, 0.61, 0.65, 1.4], solver, rtol=allowed,
                       atol=allowed, dt=1.4)  # fmt: skip
    assert int(whole.stats.rejected.sum()) > 0
    assert launches == ["solve_kernel", "pull_kernel"]


def test_two_estimates_and_an_output_that_needs_stages_of_its_own():
    power = torch.nn.Parameter(torch.tensor([[1.0], [-1.0], [0.5]], dtype=F64))
    f = ElementwiseField(growing, power=power).to(DEVICE)
    compare(f, start(3, 1) / 2, [0.0, 0.5, 1.0], "dopri8", rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["rk4", "euler", "dopri5"])
def test_given_steps(solver):
    controller = FixedSteps() if solver == "dopri5" else None
    dt = torch.tensor([0.1, 0.15, 0.2], dtype=F64, device=DEVICE)
    compare(swinging(), start(), [0.0, 0.3, 0.37], solver, dt=dt, controller=controller)


def times_of_their_own():
    ends = torch.tensor([0.5, -0.4, 0.0], dtype=F64, device=DEVICE)
    times = torch.stack([torch.zeros_like(ends), ends / 3, ends], 1)
    times[0, 2] = math.nan
    return times


def test_samples_have_their_own_times_directions_and_tolerances():
    rtol = torch.tensor([1e-4, 1e-6, 1e-5], dtype=F64, device=DEVICE)
    whole, loop = compare(swinging(), start(), times_of_their_own(), rtol=rtol, atol=1e-6)
    assert torch.isnan(whole.ys[2, 0]).all()
    assert torch.equal(whole.state.t, loop.state.t)


def test_a_controller_with_other_numbers_and_limits():
    controller = PIDController(0.3, 0.4, 0.1, dt_min=0.05, dt_max=0.2)
    compare(swinging(), start(), [0.0, 0.6], controller=controller, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("activation", "hidden", "time"),
    [("tanh", (5,), True), ("softplus", (4, 3), False), ("silu", (6,), False),
     ("sigmoid", (3,), True), ("relu", (7,), False)],
)  # fmt: skip
def test_perceptrons(activation, hidden, time):
    f = MLPField(2, hidden, activation, time=time).double().to(DEVICE)
    compare(f, start(2), [0.0, 0.4, 0.5], rtol=1e-3, atol=1e-3, samples=1)


def everything(t, y, a, b):
    inner = torch.tanh(a * y) + torch.sigmoid(y) * torch.exp(-y.square()) + abs(y) / (1.0 + t)
    more = torch.log(1.0 + y**2) * torch.cos(y) - torch.sqrt(y * y + 0.5) / 3
    chosen = torch.where(y > 0.1, b * y, torch.nn.functional.softplus(y))
    bounded = torch.maximum(torch.minimum(y, b), -0.5 * a) + torch.relu(y - 0.2)
    return inner + more - chosen + 0.1 * bounded - (a + 2.0) ** 1.5 * 0.1 * torch.sin(y) + 2**y


def test_every_operation_on_entries_and_parameters_of_every_kind():
    a = torch.nn.Parameter(torch.linspace(0.3, 1.2, 3, dtype=F64))
    b = torch.nn.Parameter(torch.linspace(0.4, 0.8, 2, dtype=F64).view(2, 1))
    f = ElementwiseField(everything, a=a, b=b).to(DEVICE)
    compare(f, start(2, 3), [0.0, 0.2, 0.3], rtol=1e-3, atol=1e-3)


def test_single_precision():
    compare(swinging(dtype=torch.float32), start(dtype=torch.float32), [0.0, 0.3, 0.8], slack=3e-5,
            rtol=1e-3, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"max_steps": 3}, {"rtol": 0.1, "atol": 0.1}, {"solver": "euler", "dt": 0.4}],
    ids=["max_steps", "singular", "given steps"],
)
def test_failures_are_told_as_the_loop_tells_them(options):
    # The first of two samples runs into a pole.
    power = torch.tensor([[1.0], [-1.0]], dtype=F64)
    f = ElementwiseField(growing, power=power).to(DEVICE)
    y0 = torch.ones(2, 1, dtype=F64, device=DEVICE)
    found = []
    for kernel in (WHOLE(samples=2), "reference"):
        given = {"solver": "dopri5", **options}
        solver = ode_core.solvers.create(given.pop("solver"), kernel=kernel)
        found.append(solve(f, y0, [0.0, 0.1, 8.0], solver=solver, stepping="per_sample",
                           on_failure="return", **given))  # fmt: skip
    whole, loop = found
    assert whole.status == loop.status
    assert {status.name for status in whole.status} > {"SUCCESS"} or "max_steps" in options
    assert torch.equal(whole.stats.accepted, loop.stats.accepted)
    assert torch.equal(torch.isfinite(whole.ys), torch.isfinite(loop.ys))


def test_where_steps_are_more_than_there_is_room_for_all_is_solved_again(monkeypatch, launches):
    monkeypatch.setattr(starting, "_RECORDED", 1)
    compare(swinging(), start(), [0.0, 0.5], rtol=1e-4, atol=1e-4)
    assert launches == ["solve_kernel", "solve_kernel", "pull_kernel"]


def test_second_derivatives_and_gradients_of_times():
    f, grads = swinging(2), []
    for kernel in (WHOLE(), "reference"):
        y0 = start(2).requires_grad_()
        t = torch.tensor([0.0, 0.4], dtype=F64, device=DEVICE, requires_grad=True)
        options = {"solver": RungeKutta(DOPRI5, kernel), "rtol": 1e-2, "atol": 1e-2}
        ys = solve(f, y0, t.detach(), stepping="per_sample", **options).ys
        (first,) = torch.autograd.grad(ys[-1].square().sum(), y0, create_graph=True)
        found = torch.autograd.grad(first.square().sum(), (y0, *f.parameters()))
        ys = solve(f, y0.detach(), t, stepping="per_sample", **options).ys
        grads.append((*found, *torch.autograd.grad(ys.square().sum(), t)))
    for mine, theirs in zip(*grads, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_results_repeat_to_the_bit():
    f = swinging(4)
    first, again = (
        solved(WHOLE(samples=2), f, start(4), [0.0, 0.3], "dopri5", rtol=1e-2, atol=1e-2)
        for _ in range(2)
    )
    assert torch.equal(first[0].ys, again[0].ys)
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"f": lambda t, y: -y}, "no field of ode_solvers.fields"),
        ({"dense": True}, "dense or record_steps"),
        ({"event": ode_core.Event(lambda t, y: y[:, 0])}, "events or an integrand"),
        ({"gradient": "adjoint"}, "goes from step to step"),
        ({"y0": torch.ones(2, 200, dtype=F64), "f": ElementwiseField(growing, power=1.0)},
         "too many registers"),
        ({"y0": torch.ones(3, 2)}, "another dtype"),
        ({"stepping": "shared"}, "stepping='per_sample'"),
    ],
    ids=["any f", "dense", "event", "adjoint", "wide", "dtype", "shared"],
)  # fmt: skip
def test_what_cannot_go_whole_says_why(change, words):
    given = {"f": swinging(), "y0": start(), "stepping": "per_sample", **change}
    f, y0 = given.pop("f"), given.pop("y0").to(DEVICE)
    with pytest.raises(ArgumentError, match=words):
        solve(f, y0, [0.0, 0.1], solver=RungeKutta(DOPRI5, "whole"), **given)


def test_a_wide_perceptron_and_autocast_say_why():
    wide = MLPField(64, 128).double().to(DEVICE)
    solver = RungeKutta(DOPRI5, "whole")
    with pytest.raises(ArgumentError, match="weights"):
        solve(wide, start(1, 64), [0.0, 0.1], solver=solver, stepping="per_sample")
    with torch.autocast(DEVICE, torch.bfloat16), pytest.raises(ArgumentError, match="autocast"):
        solve(swinging(), start(), [0.0, 0.1], solver=solver, stepping="per_sample")


def test_nobody_on_a_cpu_gets_there_unasked(launches):
    solve(swinging(), start(), [0.0, 0.1], stepping="per_sample")
    assert launches == (["solve_kernel", "pull_kernel"][:1] if DEVICE == "cuda" else [])
