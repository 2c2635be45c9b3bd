"""The loop on the device makes the host's steps, and no graph is started that others made wrong."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ode_core
from ode_core import ArgumentError, FixedSteps, Graph, SolveError, UnsupportedError, solve
from ode_core.loops import captured, chunk, device_loop
from tests.problems import F64, Circle, lotka_volterra

PROBLEM = Circle(0.5)
INSIDE = [0.0, 0.51, 0.52, 1.7, 3.0]


def both(times, graph=True, f=PROBLEM, y0=PROBLEM.y0, **options):
    host = solve(f, y0, times, record_steps=True, **options)
    device = solve(f, y0, times, record_steps=True, graph=graph, **options)
    assert (host.stats.accepted, host.stats.rejected) == (
        device.stats.accepted, device.stats.rejected,
    )  # fmt: skip
    assert torch.equal(host.steps.accepted, device.steps.accepted)
    # Where an estimate is all rounding the sizes differ as much as that.
    assert torch.allclose(host.steps.t, device.steps.t, rtol=1e-6)
    assert torch.allclose(host.steps.dt, device.steps.dt, rtol=1e-5)
    assert torch.allclose(
        host.steps.error, device.steps.error, rtol=1e-4, atol=1e-5, equal_nan=True
    )
    assert torch.allclose(host.ys, device.ys, rtol=1e-9, atol=1e-10)
    return host, device


@pytest.mark.parametrize("graph", [True, Graph(3), Graph(4, lag=True)], ids=str)
@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3", "dopri8", "fehlberg2"])
def test_the_steps_are_those_of_the_host(solver, graph):
    both([0.0, 3.0], graph, solver=solver, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("graph", [Graph(5), Graph(2, lag=True)], ids=str)
@pytest.mark.parametrize(
    ("times", "options"),
    [
        (INSIDE, {}),
        ([3.0, 1.0, 0.0], {}),
        (INSIDE, {"jump_times": [0.51, 1.0]}),
        ([0.0, 3.0], {"jump_times": [0.0, 2.0, 3.0]}),
        ([0.0, 0.0, 3.0, 3.0], {"dt": 2.0}),
        (INSIDE, {"rtol": torch.tensor([1e-5, 1e-7], dtype=F64)}),
        (INSIDE, {"controller": ode_core.PIDController(0.3, 0.4, 0.1, dt_min=1e-3, dt_max=0.05)}),
    ],
    ids=str,
)
def test_times_jumps_and_controllers(times, options, graph):
    both(times, graph, rtol=options.pop("rtol", 1e-5), **options)


def test_rejected_steps_and_a_float32_state():
    y0 = torch.tensor([1.0, 0.5], dtype=F64)
    host, _ = both([0.0, 4.0], f=lotka_volterra, y0=y0, rtol=1e-3, dt=2.0)
    assert host.stats.rejected >= 2
    device = solve(lotka_volterra, y0.float(), [0.0, 4.0], rtol=1e-3, dt=2.0, graph=True)
    assert device.ys.dtype == torch.float32
    assert torch.allclose(device.ys.double(), host.ys, rtol=1e-2)


def test_continuous_output_is_kept():
    host, device = both([0.0, 3.0], Graph(3), dense=True)
    times = torch.linspace(0.0, 3.0, 17, dtype=F64)
    assert torch.allclose(host.interpolate(times), device.interpolate(times), rtol=1e-9)


def test_an_integrand_is_summed():
    def integrand(t, y):
        return y.square().sum()

    host, device = both(INSIDE, Graph(3), integrand=integrand)
    assert torch.allclose(host.integrals, device.integrals, rtol=1e-9)


@pytest.mark.parametrize("solver", ["rk4", "euler", "dopri5"])
@pytest.mark.parametrize("times", [[0.0, 3.0], [0.0, 0.5, 0.6, 3.0], [0.0, 0.55, 3.0], [3.0, 0.0]])
@pytest.mark.parametrize("options", [{}, {"jump_times": [1.0, 2.25]}, {"dense": True}], ids=str)
def test_given_steps(solver, times, options):
    # More of them than one graph holds, and not a multiple of it.
    both(times, solver=solver, dt=0.02, controller=FixedSteps(), **options)


@pytest.mark.parametrize(
    ("f", "options", "match"),
    [
        (lambda t, y: y * y, {}, "finite|too small"),
        (PROBLEM, {"max_steps": 7}, "max_steps"),
        (PROBLEM, {"max_steps": 7, "solver": "rk4", "dt": 0.1}, "max_steps"),
        (lambda t, y: y * y * 1e200, {"solver": "euler", "dt": 0.1}, "not finite"),
        (lambda t, y: torch.where(t > 1.0, math.nan, y), {}, "not finite|too small"),
    ],
)
def test_failures_are_the_same(f, options, match):
    messages = []
    for graph in (False, Graph(3), Graph(3, lag=True)):
        with pytest.raises(SolveError, match=match) as caught:
            solve(f, PROBLEM.y0, [0.0, 0.1, 3.0], graph=graph, **options)
        solution = caught.value.solution
        messages.append((solution.status, solution.stats.accepted, solution.stats.rejected))
    assert messages[0][0] == messages[1][0] == messages[2][0]
    assert messages[1] == messages[2]
    # Towards a jump that nobody knows of, the last bits decide how often a step is halved.
    assert all(abs(a - b) <= 12 for a, b in zip(messages[0][1:], messages[1][1:], strict=True))


def test_a_solve_goes_on_from_where_the_device_left_off():
    first = solve(PROBLEM, PROBLEM.y0, [0.0, 1.5], graph=True)
    again = solve(PROBLEM, first.state, [1.5, 3.0])
    wanted = solve(PROBLEM, solve(PROBLEM, PROBLEM.y0, [0.0, 1.5]).state, [1.5, 3.0])
    assert again.stats == wanted.stats
    assert torch.allclose(again.ys, wanted.ys, rtol=1e-9)
    both_on_device = solve(PROBLEM, first.state, [1.5, 3.0], graph=True)
    assert both_on_device.stats.accepted == wanted.stats.accepted


def test_a_state_of_a_pair_and_an_empty_one():
    def f(t, y):
        return {"q": y["p"], "p": -y["q"]}

    y0 = {"q": torch.ones(3), "p": torch.zeros(3)}
    host, device = (solve(f, y0, [0.0, 1.0], graph=graph) for graph in (False, True))
    assert torch.allclose(host.ys["q"], device.ys["q"])
    assert (
        solve(f, {"q": y0["q"][:0], "p": y0["p"][:0]}, [0.0, 1.0], graph=True).ys["q"].numel() == 0
    )


@pytest.mark.parametrize("times", [[0.0, 3.0], INSIDE])
@pytest.mark.parametrize("solver", ["dopri5", "dopri8"])
def test_nothing_is_read_from_the_device_once_f_was_called(times, solver):
    class Reads(TorchDispatchMode):
        count, begun = 0, False

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += self.begun and func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def solved(graph):
        def f(t, y):
            reads.begun = True
            return PROBLEM(t, y)

        with Reads() as reads:
            stats = solve(f, PROBLEM.y0, times, solver=solver, graph=graph, max_steps=500).stats
        return reads.count, stats.accepted + stats.rejected

    assert solved(True)[0] == 0
    assert solved(Graph(3, lag=True))[0] == 0
    count, steps = solved(False)
    assert count >= steps > 5


def test_a_state_of_one_number():
    for dtype in (F64, torch.float32):
        y0 = torch.tensor(1.0, dtype=dtype)
        ys = solve(lambda t, y: -y, y0, [0.0, 0.5, 1.0], graph=True).ys
        assert ys.shape == (3,)
        assert torch.allclose(ys, torch.exp(-torch.tensor([0.0, 0.5, 1.0], dtype=dtype)), rtol=1e-4)


def test_what_a_loop_on_the_device_cannot_do_is_refused():
    y0 = PROBLEM.y0
    for options, error, match in (
        ({"solver": "kvaerno5"}, UnsupportedError, "kvaerno5 reads values"),
        ({"event": ode_core.Event(lambda t, y: y[0])}, UnsupportedError, "no events"),
        ({"compile": True}, ArgumentError, "take one"),
        ({"graph": 8}, ArgumentError, "True, False or a Graph"),
    ):
        with pytest.raises(error, match=match):
            solve(PROBLEM, y0, [0.0, 1.0], **({"graph": True} | options))
    with pytest.raises(UnsupportedError, match="stepping"):
        solve(lambda t, y: -y, y0[:, None], [0.0, 1.0], graph=True, stepping="per_sample")
    with pytest.raises(ArgumentError, match="from 1"):
        Graph(0)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_gradients_are_refused_and_none_are_needed_without(gradient):
    layer = torch.nn.Linear(2, 2).double()

    def f(t, y):
        return layer(y)

    with pytest.raises(UnsupportedError, match="solves without gradients"):
        solve(f, PROBLEM.y0, [0.0, 1.0], graph=True, gradient=gradient)
    with torch.no_grad():
        solve(f, PROBLEM.y0, [0.0, 1.0], graph=True, gradient=gradient)


@pytest.fixture
def recordings(monkeypatch):
    """Graphs that call what they recorded, in place of a device's; one entry for each."""
    made = []

    @contextmanager
    def only_if(flag):
        assert flag.dtype == torch.bool
        assert flag.dim() == 0
        yield

    def record(run, *, conditional):
        for _ in range(3):
            run(None)
        made.append(run)
        return lambda: run(only_if if conditional else None)

    monkeypatch.setattr(chunk, "record", record)
    monkeypatch.setattr(device_loop, "capturable", lambda y: True)
    monkeypatch.setattr(captured, "PROGRAMS", captured.Kept())
    return made


@pytest.mark.parametrize("nodes", [False, True])
@pytest.mark.parametrize("graph", [Graph(3), Graph(3, lag=True)], ids=str)
@pytest.mark.parametrize("times", [[0.0, 3.0], INSIDE])
def test_recorded_chunks_make_the_same_steps(recordings, monkeypatch, times, graph, nodes):
    monkeypatch.setattr(chunk, "conditional", lambda device: nodes)
    for _ in range(2):
        both(times, graph, jump_times=[1.0])
    assert len(recordings) == (2 if graph.lag else 1)
    both(times, graph, solver="rk4", dt=0.1)


def test_a_graph_is_kept_as_long_as_f_uses_the_same_memory_and_numbers(recordings):
    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor([0.5, 1.0], dtype=F64))
            self.factor = 1.0

        def forward(self, t, y):
            return -self.rate * y * self.factor

    f, y0 = Decay(), PROBLEM.y0 + 1.0

    def solved(**options):
        with torch.no_grad():
            ys = solve(f, y0, [0.0, 1.0], graph=True, rtol=1e-8, **options).ys[-1]
            exact = y0 * torch.exp(-f.rate * f.factor)
        assert torch.allclose(ys, exact, rtol=1e-6)
        return len(recordings)

    assert solved() == 1
    assert solved() == 1
    with torch.no_grad():
        f.rate.mul_(2.0)
    assert solved() == 1
    f.rate = torch.nn.Parameter(torch.tensor([0.1, 0.2], dtype=F64))
    assert solved() == 2
    f.factor = 3.0
    assert solved() == 3
    assert solved(atol=1e-7) == 4
    assert solved(solver=ode_core.solvers.create("tsit5")) == 5


def test_few_graphs_are_kept(recordings):
    for size in range(1, 12):
        solve(lambda t, y: -y, torch.ones(size), [0.0, 1.0], graph=True)
    assert len(captured.PROGRAMS) == 8
    captured.PROGRAMS.clear()
    assert len(captured.PROGRAMS) == 0


def test_an_f_that_cannot_be_captured_is_told_so_once_a_solve(recordings, monkeypatch):
    def record(run, *, conditional):
        run(None)
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(chunk, "record", record)
    for _ in range(2):
        with pytest.warns(ode_core.GraphWarning, match=r"not permitted.*keep \.item\(\)") as caught:
            found = solve(PROBLEM, PROBLEM.y0, INSIDE, graph=True)
        assert len(caught) == 1
    wanted = solve(PROBLEM, PROBLEM.y0, INSIDE)
    assert torch.allclose(found.ys, wanted.ys, rtol=1e-9)


def test_an_f_that_draws_runs_uncaptured(recordings):
    def f(t, y):
        return -y + 0.1 * torch.randn(2, dtype=F64)

    torch.manual_seed(3)
    with pytest.warns(ode_core.GraphWarning, match="random numbers"):
        found = solve(f, PROBLEM.y0, [0.0, 1.0], graph=True)
    torch.manual_seed(3)
    assert torch.allclose(found.ys, solve(f, PROBLEM.y0, [0.0, 1.0]).ys, rtol=1e-9)
    assert not recordings


def test_conditional_nodes_that_do_something_else_are_not_used(recordings, monkeypatch):
    monkeypatch.setattr(chunk, "conditional", lambda device: True)
    record, asked = chunk.record, []

    def wrong(run, *, conditional):
        asked.append(conditional)
        replay = record(run, conditional=conditional)
        # As if nothing in the node had run.
        return (lambda: None) if conditional else replay

    monkeypatch.setattr(chunk, "record", wrong)
    both(INSIDE)
    assert asked == [True, False]


def test_a_graph_is_not_taken_for_one_made_with_other_settings(recordings):
    def solved():
        return solve(PROBLEM, PROBLEM.y0, [0.0, 1.0], graph=True).ys

    solved()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solved()
    assert len(recordings) == 2
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    solved()
    torch.set_float32_matmul_precision(before)
    assert len(recordings) == 3
    solved()
    assert len(recordings) == 3
