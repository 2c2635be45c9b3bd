"""Derivatives carried along with the state: equal to back-propagation, and flat in memory."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import ode_core
from ode_core import ArgumentError, Event, FixedSteps, SolveError, UnsupportedError, solve
from ode_solvers import Forward, Krylov, Reversible
from ode_solvers.implicit.methods import kvaerno5
from tests.problems import F64, flat, lotka_volterra
from tests.solvers.differentiated import off

SOLVERS = [n for n, r in ode_core.solvers.items() if r.differentiable]
# Implicit ones with many stages; others of the kind are differentiated in time.
SLOW = ["kvaerno5", "gl6", "radau5", "gl4"]
ADAPTIVE = [n for n in SOLVERS if ode_core.solvers[n].adaptive]


class Small(nn.Module):
    """Six parameters, and two more in args."""

    def __init__(self, dtype=F64):
        super().__init__()
        self.layer = nn.Linear(2, 2).to(dtype)

    def forward(self, t, y, rates=None):
        slope = torch.sin(self.layer(y)) * (1.0 + 0.5 * torch.cos(3.0 * t))
        return slope if rates is None else slope * rates


def gradients(gradient, solver, times=(0.0, 0.25, 0.3, 0.62), timed=False, dtype=F64, **options):
    torch.manual_seed(0)
    # An implicit step is solved anew for each direction.
    few = ode_core.solvers[solver].implicit if isinstance(solver, str) else False
    net = Small(dtype).requires_grad_(not few)
    y0 = torch.tensor([1.0, 0.4], dtype=dtype, requires_grad=True)
    rates = torch.tensor([0.7, 1.1], dtype=dtype, requires_grad=True)
    t = torch.tensor(times, dtype=F64, requires_grad=timed)
    f, start = net, y0
    if isinstance(solver, str) and ode_core.solvers[solver].takes_pairs:
        f = lambda t, pair, rates: (pair[1], net(t, pair[0], rates))
        start = (y0, 0.3 * y0)
    solution = solve(f, start, t, solver=solver, gradient=gradient, args=(rates,), **options)
    ys = flat(solution.ys)
    weights = torch.arange(ys.numel(), dtype=dtype).reshape(ys.shape)
    wanted = [x for x in (y0, rates, *net.parameters(), t) if x.requires_grad]
    return torch.autograd.grad((ys * (1 + weights / 10)).sin().sum(), wanted), solution


@pytest.mark.parametrize("solver", [*SOLVERS, Reversible("dopri5")], ids=str)
def test_it_is_the_gradient_of_the_discrete_solve(solver):
    """With given steps, outputs within them and on nodes, a jump, and every time's gradient."""
    timed = solver not in SLOW
    options = {"controller": FixedSteps(), "dt": 0.125, "jump_times": [0.55], "timed": timed}
    exact, direct = gradients("direct", solver, **options)
    found, solution = gradients("forward", solver, **options)
    assert off(found, exact) < 1e-10
    assert torch.allclose(flat(solution.ys), flat(direct.ys), rtol=1e-13)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_accepted_steps_are_constants(solver):
    tolerance = 1e-4 if ode_core.solvers[solver].order < 3 else 1e-7
    options = {"rtol": tolerance, "atol": tolerance, "dt": 0.5, "jump_times": [0.55]}
    exact, _ = gradients("direct", solver, **options)
    found, solution = gradients("forward", solver, **options)
    assert solution.stats.rejected
    # A step that is made again solves its equations to round-off.
    implicit = ode_core.solvers[solver].implicit
    assert off(found, exact) < (tolerance / 100 if implicit else 1e-12)


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5", "adams_bashforth", "alf"])
def test_all_directions_go_through_a_step_at_once(solver):
    """Each accepted step is evaluated once more, whatever the number of parameters."""
    options = {"controller": FixedSteps(), "dt": 0.125}
    _, direct = gradients("direct", solver, times=(0.0, 1.0), **options)
    _, solution = gradients("forward", solver, times=(0.0, 1.0), **options)
    # Two are for the check of f; dopri5's first slope is known in all but the first step made anew.
    known = solver == "dopri5"
    assert solution.stats.f_calls == 2 * direct.stats.f_calls + 2 - known
    assert solution.stats.backward_f_calls == 0
    _, chunked = gradients(Forward(chunk=3), solver, times=(0.0, 1.0), **options)
    assert chunked.stats.f_calls == 5 * direct.stats.f_calls + 2 - 4 * known, "ten, three at once"


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_make_no_difference(solver, chunk):
    options = {"controller": FixedSteps(), "dt": 0.125}
    exact, _ = gradients("direct", solver, **options)
    assert off(gradients(Forward(chunk=chunk), solver, **options)[0], exact) < 1e-13


def test_gradcheck():
    def run(y0, rate, t):
        return solve(lambda t, y: rate * y.sin() * t.cos(), y0, t, solver="rk4", dt=0.2,
                     gradient="forward").ys  # fmt: skip

    y0 = torch.tensor([1.0, 0.4], dtype=F64, requires_grad=True)
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 0.77], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (y0, rate, t))


def test_lotka_volterras_known_sensitivities():
    start = torch.ones(2, dtype=F64, requires_grad=True)
    end = solve(lotka_volterra, start, [0.0, 10.0], solver="dopri8", gradient="forward",
                rtol=1e-9, atol=1e-9).ys[-1]  # fmt: skip
    found = torch.stack([torch.autograd.grad(x, start, retain_graph=True)[0] for x in end])
    wanted = [[1.965996054728169, 0.1885687770780593], [-2.743979155920181, 0.2117134891466831]]
    assert torch.allclose(found, torch.tensor(wanted, dtype=F64), rtol=1e-6)


def test_tensors_that_f_closes_over():
    """A leaf, the output of another network, and one that takes part only late."""

    def run(gradient):
        torch.manual_seed(0)
        scale = torch.tensor(0.7, dtype=F64, requires_grad=True)
        seed = torch.randn(2, 2, dtype=F64, requires_grad=True)
        late = torch.tensor(0.3, dtype=F64, requires_grad=True)
        matrix = seed.tanh() - torch.eye(2, dtype=F64)

        def f(t, y):
            out = scale * (y @ matrix)
            return out + late * y if t > 0.5 else out

        y0 = torch.ones(1, 2, dtype=F64)
        ys = solve(f, y0, [0.0, 0.2, 0.5, 1.0], gradient=gradient, jump_times=[0.5], rtol=1e-8,
                   atol=1e-8).ys  # fmt: skip
        return torch.autograd.grad(ys.square().sum(), [scale, seed, late])

    assert off(run("forward"), run("direct")) < 1e-12


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64, torch.float32])
def test_other_dtypes(dtype):
    def run(gradient):
        rate = torch.tensor(0.3 + 1.1j if dtype.is_complex else 0.3, dtype=dtype)
        y0 = torch.tensor([1.0, -0.2], dtype=dtype) * (1 + 0.5j if dtype.is_complex else 1)
        rate.requires_grad_(), y0.requires_grad_()
        scale = torch.tensor(0.8, dtype=dtype.to_real(), requires_grad=True)
        ys = solve(lambda t, y: scale * rate * y, y0, [0.0, 0.8], solver="rk4", dt=0.1,
                   gradient=gradient).ys  # fmt: skip
        loss = (ys[-1] * (0.3 - 0.4j)).real.sum()
        return torch.autograd.grad(loss, [y0, rate, scale])

    assert off(run("forward"), run("direct")) < 10 * torch.finfo(dtype).eps


def test_events_and_integrals():
    """A ball that bounces twice, by gravity and by what is left of its speed."""

    def run(gradient):
        gravity = torch.tensor(9.81, dtype=F64, requires_grad=True)
        kept = torch.tensor(0.8, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
        hit = Event(lambda t, y: y[0], direction=-1,
                    reset=lambda t, y: torch.stack([0.0 * y[0], -kept * y[1]]))  # fmt: skip
        solution = solve(lambda t, y: torch.stack([y[1], -gravity]), y0, [0.0, 0.3, 1.0, 1.2],
                         event=hit, gradient=gradient, rtol=1e-8, atol=1e-8,
                         integrand=lambda t, y: gravity * y[0])  # fmt: skip
        assert len(solution.events) == 2
        loss = solution.ys[-1].sum() + solution.integrals[-1] + solution.events[-1].t
        return torch.autograd.grad(loss, [y0, gravity, kept])

    assert off(run("forward"), run("direct")) < 1e-10


@pytest.mark.parametrize("solver", ["adams_moulton", "leapfrog", "dopri5"])
def test_a_solve_that_goes_on_from_another(solver):
    def run(gradient):
        rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.4], dtype=F64, requires_grad=True)
        f = lambda t, y: rate * y.sin() * t.cos()
        options = {"solver": solver, "gradient": gradient, "controller": FixedSteps(), "dt": 0.125}
        first = solve(f, y0, [0.0, 1.0], **options)
        second = solve(f, first.state, [1.0, 1.3, 2.0], **options)
        return torch.autograd.grad(second.ys.sin().sum(), [y0, rate])

    assert off(run("forward"), run("direct")) < 1e-12


def test_what_torch_cannot_take_many_directions_through_goes_one_by_one():
    """Writing into a tensor of one's own has no rule under vmap."""

    def run(gradient):
        rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.4], dtype=F64, requires_grad=True)

        def f(t, y):
            out = torch.empty_like(y)
            out[0], out[1] = y[1] * rate, -y[0]
            return out

        ys = solve(f, y0, [0.0, 1.0], solver="rk4", dt=0.125, gradient=gradient).ys
        return torch.autograd.grad(ys[-1].sin().sum(), [y0, rate])

    assert off(run("forward"), run("direct")) < 1e-12


def test_dropout_and_batch_norm_are_evaluated_as_they_were():
    def run(gradient):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).to(F64)
        y0 = torch.randn(8, 2, dtype=F64)
        torch.manual_seed(1)
        ys = solve(lambda t, y: net(y), y0, [0.0, 1.0], solver="rk4", dt=0.25,
                   gradient=gradient).ys  # fmt: skip
        found = torch.autograd.grad(ys[-1].square().sum(), list(net.parameters()))
        return [*found, net[1].running_mean, net[1].num_batches_tracked.double()]

    assert off(run("forward"), run("direct")) < 1e-10


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda t, y: Broken.apply(y), "forward derivative"),
        (lambda t, y: (y.detach() if y.requires_grad else y) * y, "forward derivative"),
    ],
)
def test_a_field_without_the_right_forward_derivative_is_refused(f, words):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    with pytest.raises(UnsupportedError, match=words):
        solve(f, y0, [0.0, 1.0], gradient="forward")


def test_too_many_parameters_are_refused_with_what_to_take():
    wide = nn.Linear(20, 20).to(F64)
    y0 = torch.ones(20, dtype=F64)
    with pytest.raises(UnsupportedError, match=r"420 numbers.*\(20, 20\).*checkpoint.*limit=420"):
        solve(lambda t, y: wide(y), y0, [0.0, 1.0], gradient="forward")
    with pytest.raises(UnsupportedError, match="101 numbers"):
        solve(lambda t, y: -y, torch.ones(101, requires_grad=True), [0.0, 1.0], gradient="forward")
    ys = solve(lambda t, y: wide(y), y0, [0.0, 1.0], gradient=Forward(limit=420), solver="euler",
               dt=0.5).ys  # fmt: skip
    ys.sum().backward()
    assert wide.weight.grad.abs().min() > 0


def test_what_it_cannot_do_is_refused():
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    f = lambda t, y: -y
    with pytest.raises(ArgumentError, match="limit"):
        Forward(limit=0)
    with pytest.raises(ArgumentError, match="chunk"):
        Forward(chunk=0)
    with pytest.raises(UnsupportedError, match="per_sample"):
        solve(f, y0[:, None], [0.0, 1.0], gradient="forward", stepping="per_sample")
    with pytest.raises(UnsupportedError, match="outside of torch"):
        solve(f, y0, [0.0, 1.0], gradient="forward", solver="scipy_bdf")
    with pytest.raises(UnsupportedError, match="krylov"):
        solve(f, y0, [0.0, 1.0], gradient="forward", solver=kvaerno5(linear=Krylov()))
    ys = solve(f, y0, [0.0, 1.0], gradient="forward").ys
    with pytest.raises(UnsupportedError, match="second derivatives"):
        torch.autograd.grad(ys.sum(), y0, create_graph=True)
    with pytest.raises(SolveError):
        solve(lambda t, y: y * y, y0, [0.0, 2.0], gradient="forward")


def test_without_gradients_it_is_the_plain_solve():
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    with torch.no_grad():
        plain = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="forward")
    direct = solve(lambda t, y: -y, y0.detach(), [0.0, 1.0], gradient="forward")
    assert plain.stats.f_calls == direct.stats.f_calls
    assert not plain.ys.requires_grad
    assert not direct.ys.requires_grad


def test_memory_does_not_grow_with_the_number_of_steps():
    def held(steps):
        rate = torch.ones(3, dtype=F64, requires_grad=True)
        y0 = torch.ones(1000, dtype=F64)
        gc.collect()
        before = {id(x) for x in gc.get_objects() if type(x) is torch.Tensor}
        ys = solve(lambda t, y: rate.prod() * y.sin(), y0, [0.0, 1.0], solver="rk4",
                   dt=1.0 / steps, gradient="forward").ys  # fmt: skip
        gc.collect()
        left = [x for x in gc.get_objects() if type(x) is torch.Tensor and id(x) not in before]
        assert ys.requires_grad
        return sum(x.numel() for x in left)

    assert held(100) == held(10)
