"""torchdiffeq's event tests through the drop-in, and what its users miss there."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from ode_solvers.compat.torchdiffeq import odeint, odeint_adjoint, odeint_event
from ode_solvers.compat.torchdiffeq.methods import EXTERNAL, GIVEN, METHODS
from tests.solvers.compat_problems import F32, F64, problem, relative_error

TORCH = [name for name, method in METHODS.items() if method.steps != EXTERNAL]
BOUNDS = {"explicit_adams": 7e-2, "euler": 5e-3, "implicit_euler": 5e-3, "gl6": 2e-3}


def options_of(method):
    return {"step_size": 0.01, "interp": "cubic"} if METHODS[method].steps == GIVEN else None


CASES = [
    (F32, False),
    (F64, True),
]


@pytest.mark.parametrize(("dtype", "reverse"), CASES, ids=["float32-forwards", "float64-backwards"])
@pytest.mark.parametrize("ode", ["constant", "sine"])
@pytest.mark.parametrize("method", TORCH)
def test_a_solve_ends_where_the_event_function_is_zero(method, ode, dtype, reverse):
    f, y0, t, truth = problem(ode, dtype, reverse=reverse)
    event_fn = lambda t, y: torch.sum(y - truth[2])
    # A second-order error estimate takes thousands of steps to the default tolerance.
    loose = {"rtol": 1e-6, "atol": 1e-8} if method in ("adaptive_heun", "fehlberg2") else {}
    with torch.no_grad():
        event_t, y = odeint(f, y0, t[:2], event_fn=event_fn, method=method,
                            options=options_of(method), **loose)  # fmt: skip
    bound = BOUNDS.get(method, 1e-4)
    if dtype == F32 and METHODS[method].steps == GIVEN:
        # Rounding errors of 150 steps, each of which adds its stages to the state in turn.
        bound = max(bound, 2e-4)
    assert event_t.dtype == t.dtype
    assert event_t.shape == ()
    assert y.shape == (2, *y0.shape)
    assert relative_error(truth[2], y[-1]) < bound
    assert relative_error(t[2], event_t) < bound


@pytest.mark.parametrize("ode", ["constant", "sine"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_the_adjoint_to_an_event_at_the_last_point_runs_twice(ode, reverse):
    f, y0, t, truth = problem(ode, reverse=reverse)
    event_fn = lambda t, y: torch.sum(y - truth[-1])
    event_t, y = odeint_adjoint(f, y0, t[:2], event_fn=event_fn, method="dopri5")
    assert relative_error(truth[-1], y[-1]) < 1e-4
    assert relative_error(t[-1], event_t) < 1e-4
    y[-1].sum().backward(retain_graph=True)
    first = y0.grad.clone()
    y[-1].sum().backward()
    assert torch.allclose(y0.grad, 2 * first)


class Ball(torch.nn.Module):
    """A ball in free fall: height and speed."""

    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor(9.8, dtype=F64))

    def forward(self, t, state):
        return state[1], -self.gravity.expand_as(state[1])


INTERFACES = {
    "odeint": odeint,
    "odeint_adjoint": odeint_adjoint,
    "rk4": partial(odeint, method="rk4", options={"step_size": 0.05}),
    "rk4_adjoint": partial(odeint_adjoint, method="rk4", options={"step_size": 0.05}),
}


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_ball_thrown_from_the_ground_comes_back(interface):
    """It starts on the zero of its event; from speed v it lands at 2 v / g with speed -v."""
    f, v = Ball(), torch.tensor([10.0], dtype=F64, requires_grad=True)
    t0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    event_t, (height, speed) = odeint_event(
        f, (torch.zeros(1, dtype=F64), v), t0, event_fn=lambda t, y: y[0],
        odeint_interface=INTERFACES[interface],
    )  # fmt: skip
    assert event_t.item() == pytest.approx(1.0 + 20 / 9.8, abs=1e-6)
    assert height[-1].item() == pytest.approx(0.0, abs=1e-6)
    assert speed[-1].item() == pytest.approx(-10.0, abs=1e-6)
    inputs = (v, f.gravity, t0)
    of_time = torch.autograd.grad(event_t, inputs, retain_graph=True)
    assert [g.item() for g in of_time] == pytest.approx([2 / 9.8, -20 / 9.8**2, 1.0], abs=1e-5)
    of_speed = torch.autograd.grad(speed[-1].sum(), inputs, allow_unused=True)
    assert of_speed[0].item() == pytest.approx(-1.0, abs=1e-5)
    assert of_speed[1].item() == pytest.approx(0.0, abs=1e-5)


def test_gradients_agree_with_differences():
    f, y0, _, truth = problem("sine")
    level = truth[2].clone().requires_grad_()

    def event(y0, level):
        t, y = odeint_event(f, y0, torch.tensor(1.0, dtype=F64), rtol=1e-10, atol=1e-10,
                            event_fn=lambda t, y: y * (1 + t) - level)  # fmt: skip
        return t, y[-1]

    assert torch.autograd.gradcheck(event, (y0, level))


def foreign(func, y0, t, *, event_fn, **options):
    """An interface that, as torchdiffeq's own, gives gradients at a fixed time only."""
    with torch.no_grad():
        event_t, _ = odeint(func, y0, t, event_fn=event_fn, **options)
    times = torch.stack([t[0], event_t])
    return event_t, odeint(func, y0, times, **options)


@pytest.mark.parametrize("single", [True, False])
def test_an_interface_of_someone_elses_gets_its_gradients_here(single):
    v = torch.tensor([10.0], dtype=F64, requires_grad=True)
    f, t0, wanted = Ball(), torch.tensor(0.0, dtype=F64), []
    func = lambda t, y: torch.stack(f(t, (y[0], y[1]))) if single else f(t, y)
    for interface in (odeint, foreign):
        y0 = (torch.zeros(1, dtype=F64), v)
        t, y = odeint_event(func, torch.stack(y0) if single else y0, t0,
                            event_fn=lambda t, y: y[0], odeint_interface=interface)  # fmt: skip
        speed = y[-1][1] if single else y[1][-1]
        wanted.append([*torch.autograd.grad(t + speed.sum(), (v, f.gravity))])
    assert torch.allclose(torch.stack([g.sum() for g in wanted[0]]),
                          torch.stack([g.sum() for g in wanted[1]]))  # fmt: skip


def test_a_grazing_event_within_a_step_is_not_missed():
    """sin t first reaches 0.9995 at 1.5392; torchdiffeq finds 64.11."""
    oscillator = lambda t, y: torch.stack([y[1], -y[0]])
    y0 = torch.tensor([0.0, 1.0], dtype=F64)
    t, _ = odeint_event(oscillator, y0, torch.tensor(0.0, dtype=F64), rtol=1e-3, atol=1e-3,
                        event_fn=lambda t, y: y[0] - 0.9995)  # fmt: skip
    # At this tolerance the top of the solution itself is off by some 1e-4.
    assert t.item() == pytest.approx(math.asin(0.9995), abs=0.04)


def test_the_first_of_several_entries_ends_the_solve():
    y0 = torch.tensor([0.0, 0.0], dtype=F64)
    speeds = torch.tensor([1.0, 2.0], dtype=F64)
    t, y = odeint_event(lambda t, y: speeds, y0, torch.tensor(0.0, dtype=F64),
                        event_fn=lambda t, y: y - 3.0)  # fmt: skip
    assert t.item() == pytest.approx(1.5)
    assert y[-1].tolist() == pytest.approx([1.5, 3.0])


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_an_event_in_the_past(interface):
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    t, _ = odeint_event(lambda t, y: y, y0, torch.tensor([2.0], dtype=F64), reverse_time=True,
                        event_fn=lambda t, y: y - 0.5, odeint_interface=interface)  # fmt: skip
    assert t.item() == pytest.approx(2.0 - math.log(2.0), abs=1e-6)
    assert torch.autograd.grad(t, y0)[0].item() == pytest.approx(-1.0, abs=1e-5)


def test_a_backward_solve_to_an_event_takes_its_own_steps():
    calls = []

    def f(t, y):
        calls.append(t)
        return y

    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    t, _ = odeint_adjoint(f, y0, torch.tensor([0.0, 1.0]), method="rk4",
                          event_fn=lambda t, y: y - 2.0, options={"step_size": 0.01},
                          adjoint_options={"step_size": 0.1})  # fmt: skip
    calls.clear()
    (g,) = torch.autograd.grad(t, y0)
    assert g.item() == pytest.approx(-1.0, abs=1e-5)
    # Seven steps, and what holding the rebuilt state against stored ones costs; forwards 70.
    assert len(calls) <= 4 * 10


def test_what_cannot_be_looked_for_is_said():
    f, y0, two = (lambda t, y: -y), torch.ones(1), torch.tensor([0.0, 1.0])
    event = {"event_fn": lambda t, y: y - 0.5}
    with pytest.raises(ValueError, match="t is two times"):
        odeint(f, y0, torch.linspace(0, 1, 3), **event)
    with pytest.raises(ValueError, match="looks for events with options"):
        odeint(f, y0, two, method="rk4", **event)
    with pytest.raises(ValueError, match="looks for no events"):
        odeint(f, y0, two, method="scipy_solver", **event)
    with pytest.raises(AssertionError, match=r"met no event from t = 0 to t = 1e\+12"):
        odeint(lambda t, y: 0 * y, y0, two, event_fn=lambda t, y: y + 1.0)
