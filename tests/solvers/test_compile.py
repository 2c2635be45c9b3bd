"""compile=: steps and whole solves as programs, with the steps and numbers of the plain solve."""

from __future__ import annotations

import gc
import pickle
import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import ode_core
from ode_core import ArgumentError, Compile, FixedSteps, PIDController, Step, UnsupportedError
from ode_core.programs import found
from ode_models import ODEBlock
from ode_solvers import RungeKutta
from ode_solvers.tables.dopri5 import DOPRI5

# What Dynamo makes, run as it is: quick to make, and the same operations.
STEP = Compile("step", backend="eager")
SOLVE = Compile("solve", backend="eager")


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    torch._dynamo.reset()
    counters.clear()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.scale = 1.0

    def forward(self, t, y):
        return torch.cos(t) * self.scale * self.layers(y)


def pendulum(t, y):
    q, v = y
    return v, -torch.sin(q)


def same_solve(f, y, t, compile, **settings):
    """Assert that a solve is made of programs, and is the plain one to rounding."""
    made = ode_core.solve(f, y, t, compile=compile, **settings)
    plain = ode_core.solve(f, y, t, **settings)
    if isinstance(compile, Compile):
        assert made.compiled.part == compile.part
    assert made.compiled.programs >= 1
    assert not counters["graph_break"]
    assert made.stats == plain.stats
    assert made.status is plain.status
    assert made.state.dt == pytest.approx(plain.state.dt, rel=0.1)
    torch.testing.assert_close(made.ys, plain.ys, rtol=1e-5, atol=1e-6)
    return made


def oscillator(t, y):
    return torch.stack((y[1], 5.0 * (1.0 - y[0] ** 2) * y[1] - y[0]))


@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3", "adaptive_heun", "dopri8"])
def test_every_attempt_is_judged_alike(solver):
    y = torch.tensor([2.0, 0.0], dtype=torch.float64)
    settings = {"solver": solver, "rtol": 1e-4, "record_steps": True}
    made = ode_core.solve(oscillator, y, [0.0, 1.0, 8.0], compile=STEP, **settings)
    plain = ode_core.solve(oscillator, y, [0.0, 1.0, 8.0], **settings)
    assert plain.stats.rejected > 0
    assert torch.equal(made.steps.accepted, plain.steps.accepted)
    torch.testing.assert_close(made.steps.dt, plain.steps.dt, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(made.ys, plain.ys, rtol=1e-9, atol=1e-9)
    # In a program a rejected step evaluates its end, too, where a stage has not done so.
    more = plain.stats.rejected if solver in ("dopri8", "adaptive_heun") else 0
    assert made.stats.f_calls == plain.stats.f_calls + more


def test_a_whole_solve_takes_the_same_steps():
    y = torch.tensor([2.0, 0.0], dtype=torch.float64)
    whole = same_solve(oscillator, y, [0.0, 8.0], SOLVE, rtol=1e-4)
    assert whole.stats.rejected > 0
    assert whole.state.memory[2] is False


@pytest.mark.parametrize("compile", [STEP, SOLVE], ids=["step", "solve"])
@pytest.mark.parametrize(
    ("y", "f", "t"),
    [
        ((torch.ones(2), torch.zeros(2)), pendulum, [0.0, 3.0]),
        (torch.ones(3, dtype=torch.float64), lambda t, y: -t * y, [2.0, -1.0]),
        (torch.ones(3, dtype=torch.complex64), lambda t, y: 1j * y, [0.0, 2.0]),
        (torch.ones(3).bfloat16(), lambda t, y: -y, [0.0, 1.0]),
        (torch.tensor(1.0), lambda t, y: -y, [0.0, 1.0]),
    ],
    ids=["tuple", "backwards", "complex", "16-bit", "0-d"],
)
def test_every_form_of_state(y, f, t, compile):
    if isinstance(y, tuple):
        made = ode_core.solve(f, y, t, compile=compile)
        plain = ode_core.solve(f, y, t)
        torch.testing.assert_close(made.ys, plain.ys, rtol=1e-5, atol=1e-6)
        assert (made.stats, made.compiled.part) == (plain.stats, compile.part)
        return
    same_solve(f, y, t, compile)


def test_gradients_go_through_compiled_steps():
    net, y0 = Net(), torch.randn(3, 2)

    def loss(compile):
        y = y0.clone().requires_grad_()
        solution = ode_core.solve(net, y, [0.0, 0.5, 2.0], compile=compile)
        gradients = torch.autograd.grad(solution.ys.square().sum(), [y, *net.parameters()])
        return solution, gradients

    solution, found_gradients = loss(Compile("step", backend="aot_eager"))
    assert (solution.compiled.part, solution.compiled.programs) == ("step", 1)
    torch.testing.assert_close(found_gradients, loss(False)[1], rtol=1e-4, atol=1e-5)


def test_a_start_without_gradient_needs_no_second_program():
    net = Net()
    solution = ode_core.solve(net, torch.randn(3, 2), [0.0, 2.0], compile=STEP)
    assert solution.stats.accepted > 1
    assert solution.compiled.programs == 1
    solution.ys.sum().backward()
    assert net.layers[0].weight.grad is not None


def test_where_nothing_requires_a_gradient_nothing_is_recorded():
    solution = ode_core.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], compile=STEP)
    assert not solution.ys.requires_grad
    with torch.inference_mode():
        ode_core.solve(lambda t, y: -3.5 * y, torch.ones(2), [0.0, 1.5], compile=STEP)
    y0 = torch.ones(2, requires_grad=True)
    ode_core.solve(lambda t, y: -3.5 * y, y0, [0.0, 1.5], compile=STEP).ys.sum().backward()
    torch.testing.assert_close(
        y0.grad, 1.0 + torch.tensor(-5.25).exp().expand(2), rtol=1e-3, atol=0.0
    )


def test_trained_and_changed_fields_are_seen():
    net, y = Net().double(), torch.randn(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for compile in (STEP, SOLVE):
            same_solve(net, y, [0.0, 2.0], compile)
            net.layers[0].weight.mul_(1.5)
            assert same_solve(net, y, [0.0, 2.0], compile).compiled.programs == 1
            net.scale += 1.0
            same_solve(net, y, [0.0, 2.0], compile)


def test_functions_of_one_code_are_told_apart():
    def decay(rate):
        return lambda t, y: -rate * y

    y = torch.ones(2)
    rates = [torch.tensor(1.0), torch.tensor(2.0), 3.0]
    ends = [ode_core.solve(decay(k), y, [0.0, 1.0], compile=SOLVE).ys[-1, 0] for k in rates]
    torch.testing.assert_close(torch.stack(ends), torch.tensor([-1.0, -2.0, -3.0]).exp())


def test_other_tolerances_times_and_values_need_no_other_program():
    net = Net().double()
    with torch.no_grad():
        for compile in (STEP, SOLVE):
            for rtol, end in ((1e-3, 1.0), (1e-6, 2.0), (1e-5, -1.5)):
                y = torch.randn(3, 2, dtype=torch.float64)
                assert same_solve(net, y, [0.0, end], compile, rtol=rtol).compiled.programs == 1


def test_programs_go_with_their_field():
    net = Net()
    ode_core.solve(net, torch.ones(1, 2), [0.0, 1.0], compile=STEP)
    assert found(net)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_the_whole_solve_is_taken_where_it_serves():
    def decay(t, y):
        return -y

    def part(t, **settings):
        compile = Compile(backend="eager")
        return ode_core.solve(decay, torch.ones(2), t, compile=compile, **settings).compiled.part

    assert part([0.0, 1.0]) == "solve"
    assert part([0.0, 0.5, 1.0]) == "step"
    assert part([0.0, 1.0], dense=True) == "step"
    assert part([0.0, 1.0], dt=0.1) == "step"
    assert part([0.0, 1.0], jump_times=[0.5]) == "step"
    assert part([0.0, 1.0], solver="rk4", dt=0.25) == "step"
    assert part([0.0, 1.0], controller=FixedSteps(), dt=0.25) == "step"
    net = Net()
    solution = ode_core.solve(net, torch.ones(1, 2), [0.0, 1.0], compile=Compile(backend="eager"))
    assert solution.compiled.part == "step", "the parameters require gradients"
    solution.ys.sum().backward()


@pytest.mark.parametrize("compile", [False, STEP, SOLVE], ids=["plain", "step", "solve"])
def test_buffers_are_written_as_often_as_in_the_plain_solve(compile):
    net = nn.BatchNorm1d(2)
    with torch.no_grad():
        solution = ode_core.solve(
            lambda t, y: net(y), torch.randn(4, 2), [0.0, 0.5], compile=compile
        )
    assert net.num_batches_tracked.item() == solution.stats.f_calls


def test_a_field_that_leaves_notes_is_compiled_step_by_step():
    net = Net()

    def f(t, y):
        net.last = y
        return -y

    with torch.no_grad():
        solution = ode_core.solve(f, torch.ones(2), [0.0, 0.5], compile=Compile(backend="eager"))
        assert solution.compiled.part == "step"
        with pytest.raises(UnsupportedError, match="could not make a program"):
            ode_core.solve(f, torch.ones(2), [0.0, 0.5], compile=SOLVE)


def test_the_whole_solve_fails_as_the_plain_one_does():
    def blow_up(t, y):
        return y * y

    def failed(**settings):
        return ode_core.solve(
            blow_up, torch.ones(1, dtype=torch.float64), [0.0, 2.0], on_failure="return", **settings
        )

    for settings in ({}, {"max_steps": 7}, {"controller": PIDController(dt_min=1e-3)}):
        made, plain = failed(compile=SOLVE, **settings), failed(**settings)
        assert made.status is plain.status
        assert made.ys.isnan().tolist() == plain.ys.isnan().tolist()
        assert made.stats.accepted == pytest.approx(plain.stats.accepted, abs=2)


def test_events_and_outputs_within_steps_are_served_by_compiled_steps():
    event = ode_core.Event(lambda t, y: y[0] - 0.5)
    settings = {"event": event, "dense": True}
    y = torch.tensor([1.0, 2.0], dtype=torch.float64)
    made = ode_core.solve(lambda t, y: -y, y, [0.0, 0.1, 2.0], compile=STEP, **settings)
    plain = ode_core.solve(lambda t, y: -y, y, [0.0, 0.1, 2.0], **settings)
    torch.testing.assert_close(made.event.t, plain.event.t)
    torch.testing.assert_close(made.ys, plain.ys, equal_nan=True)
    torch.testing.assert_close(made.interpolate(0.37), plain.interpolate(0.37))


@dataclass(frozen=True)
class Strangers:
    """A solver of another package: Heun's with Euler's as an estimate, no first-same-as-last."""

    name: str = "strangers"
    order: int = 2
    adaptive: bool = True
    implicit: bool = False
    one_step: bool = True
    unhashable: list = field(default_factory=list)

    def init(self, field, t, y):
        return ()

    def step(self, field, t0, t1, y, carry, tolerance):
        h = t1 - t0
        k1 = field(t0, y)
        k2 = field(t1, y + h * k1)
        y1 = y + 0.5 * h * (k1 + k2)
        error = None if tolerance is None else tolerance.norm(0.5 * h * (k2 - k1), y, y1)
        return Step(y1, error, (), None)


@pytest.mark.parametrize("compile", [STEP, SOLVE], ids=["step", "solve"])
def test_a_strangers_solver_is_served(compile):
    solver = Strangers()
    y = torch.ones(2, dtype=torch.float64)
    same_solve(lambda t, y: -t * y, y, [0.0, 2.0], compile, solver=solver, rtol=1e-3, atol=1e-4)
    made = ode_core.solve(
        lambda t, y: -t * y, y, [0.0, 2.0], solver=solver, rtol=1e-4, compile=compile
    )
    assert made.compiled.programs == 1


def test_a_block_is_compiled():
    block = ODEBlock(Net(), compile=STEP)
    plain = ODEBlock(block.field)
    y = torch.randn(3, 2)
    torch.testing.assert_close(block(y), plain(y), rtol=1e-5, atol=1e-6)
    assert block.compiled.part == "step"
    assert "compile=Compile(part='step'" in repr(block)
    assert pickle.loads(pickle.dumps(block)).compiling == STEP


def test_auto_keeps_what_was_faster_and_says_so(monkeypatch):
    taken = {"nothing": 1.0, "solve": 2.0, "step": 3.0}
    monkeypatch.setattr("ode_core.compiled._seconds", lambda problem, way: taken[way.part])
    auto = Compile(backend="eager", measured=True)

    def decay(t, y):
        return -y

    def solved(y):
        return ode_core.solve(decay, y, [0.0, 1.0], compile=auto)

    first = solved(torch.ones(2))
    assert first.compiled.part == "nothing"
    assert first.compiled.seconds == {"nothing": 1.0, "solve": 2.0}
    taken["nothing"] = 9.0
    assert solved(torch.ones(2)).compiled.part == "nothing", "measured once for a shape"
    assert solved(torch.ones(3)).compiled.part == "solve"
    assert pickle.loads(pickle.dumps(solved(torch.ones(3)).compiled)).part == "solve"


def test_measuring_leaves_no_trace():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    settings = {"solver": "rk4", "dt": 0.5}
    auto = Compile(None, "eager", measured=True)

    def solved(compile):
        net[0].reset_running_stats()
        solution = ode_core.solve(
            lambda t, y: net(y), torch.ones(4, 2), [0.0, 0.5], compile=compile, **settings
        )
        return solution, net[0].num_batches_tracked.item()

    first, _ = solved(auto)
    assert set(first.compiled.seconds) == {"nothing", "step"}
    assert net[1].weight.grad is None
    # The measurement is over: what is counted now is what a solve of either kind counts.
    assert solved(auto)[1] == solved(False)[1] == 4


def test_auto_solves_plainly_where_no_program_can_be_made():
    def looking(t, y):
        return -y if float(y.detach().sum()) > 0 else y

    auto = Compile(backend="eager", measured=True)
    solution = ode_core.solve(looking, torch.ones(2), [0.0, 1.0], compile=auto)
    assert solution.compiled.part == "nothing"
    assert "could not make a program" in solution.compiled.reason
    with pytest.raises(UnsupportedError, match="could not make a program of the solver with this"):
        ode_core.solve(looking, torch.ones(2), [0.0, 1.0], compile=STEP)


def test_an_f_that_never_stays_the_same_is_named_and_auto_goes_on(monkeypatch):
    seconds = {"nothing": 2.0, "step": 1.0}
    monkeypatch.setattr("ode_core.compiled._seconds", lambda problem, way: seconds[way.part])
    net = Net()
    net.word = ""
    net.forward = lambda t, y: -y * len(net.word)
    auto = Compile("step", "eager", measured=True)

    def solved(compile):
        net.word += "a"
        with torch.no_grad():
            return ode_core.solve(net, torch.ones(2), [0.0, 0.1], compile=compile)

    for _ in range(torch._dynamo.config.recompile_limit):
        assert solved(auto).compiled.part == "step"
    with pytest.raises(UnsupportedError, match="f has changed in more ways than"):
        solved(STEP)
    solution = solved(auto)
    assert solution.compiled.part == "nothing"
    assert "f has changed in more ways" in solution.compiled.reason
    assert solution.stats == solved(False).stats


def test_without_a_compiler_it_says_so():
    def decay(t, y):
        return -1.25 * y

    patch = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with patch, pytest.raises(UnsupportedError, match=r"needs a C\+\+ compiler.* none was found"):
        ode_core.solve(decay, torch.ones(7), [0.0, 1.0], compile=Compile("step"))


def test_random_draws_are_refused():
    def noisy(t, y):
        return torch.nn.functional.dropout(y, 0.5)

    with pytest.raises(UnsupportedError, match="draws random numbers"):
        ode_core.solve(noisy, torch.ones(9), [0.0, 1.0], compile=SOLVE)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"stepping": "per_sample"}, "compile serves shared steps"),
        ({"gradient": "adjoint"}, "compile serves gradient='direct', not 'adjoint'"),
        ({"solver": "kvaerno5"}, "kvaerno5 looks at values within a step"),
        ({"solver": "adams_bashforth"}, "adams_bashforth looks at values within a step"),
        ({"compile": "fast"}, "compile is True, False, 'auto' or a Compile; got 'fast'"),
        ({"compile": SOLVE, "dense": True}, "more than the end is asked for"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_is_not_served_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        ode_core.solve(
            lambda t, y: -y, torch.ones(2, 1), [0.0, 1.0], **{"compile": True, **settings}
        )


def test_the_whole_solve_alone_refuses_a_gradient():
    with pytest.raises(ArgumentError, match="requires a gradient, which a program of the whole"):
        ode_core.solve(Net(), torch.ones(1, 2), [0.0, 1.0], compile=SOLVE)


def test_inductor_makes_both():
    net, y = Net(), torch.randn(3, 2)
    with torch.no_grad():
        same_solve(net, y, [0.0, 2.0], True, solver=RungeKutta(DOPRI5))
