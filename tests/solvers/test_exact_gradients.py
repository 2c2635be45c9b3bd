"""Exact methods give the gradient of the discrete solve, whatever solves and whatever is solved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ode_core
from ode_core import FixedSteps, UnsupportedError, solve
from ode_solvers import Checkpoint, Symplectic
from tests.problems import F64, flat, lotka_volterra
from tests.solvers.differentiated import Net, off, problem

IN_TORCH = [name for name, record in ode_core.solvers.items() if record.differentiable]
OUTSIDE = [name for name, record in ode_core.solvers.items() if not record.differentiable]
REPLAYED = ["checkpoint", "symplectic", Checkpoint(states=3)]
NAMES = ["checkpoint", "symplectic", "checkpoint-3-states"]
replayed = pytest.mark.parametrize("gradient", REPLAYED, ids=NAMES)


class Stranger:
    """A two-step Adams-Bashforth method on equal or unequal steps that knows nothing of gradients.

    Its carry holds a count as an integer.
    """

    name, order, adaptive, implicit, one_step = "stranger", 2, False, False, False

    def init(self, f, t, y):
        return {
            "slope": f(t, y),
            "size": torch.zeros(()),
            "count": torch.zeros((), dtype=torch.int),
        }

    def step(self, f, t0, t1, y, carry, tolerance):
        slope, h = f(t0, y), t1 - t0
        size = float(carry["size"].detach())
        ratio = 0.5 * h / size if size else 0.0
        y1 = y + h * ((1.0 + ratio) * slope - ratio * carry["slope"])
        kept = {"slope": slope, "size": torch.tensor(h), "count": carry["count"] + 1}
        return ode_core.Step(y1, None, kept, None)


def gradients(gradient, solver, dtype=F64, times=(0.0, 0.33, 0.7, 1.0), **options):
    f, start, wanted = problem(solver, dtype)
    solution = solve(f, start, times, solver=solver, gradient=gradient, **options)
    ys = flat(solution.ys)
    weights = torch.arange(ys.numel(), dtype=dtype).reshape(ys.shape)
    return torch.autograd.grad((ys * (1 + weights / 10)).sin().sum(), wanted), solution


def grid_of(solver, times=(0.0, 0.33, 0.7, 1.0)):
    """The nodes of an adaptive solve, unequal as they are, or unequal ones."""
    if not ode_core.solvers[solver].adaptive:
        return [0.0, 0.1, 0.13, 0.29, 0.5, 0.64, 0.71, 0.9, 1.0]
    f, start, _ = problem(solver)
    tolerance = 1e-3 if ode_core.solvers[solver].order < 3 else 1e-6
    steps = solve(f, start, times, solver=solver, rtol=tolerance, atol=tolerance,
                  record_steps=True).steps  # fmt: skip
    ends = (steps.t + steps.dt)[steps.accepted].tolist()
    return [times[0], *ends[:-1], times[-1]]


@replayed
@pytest.mark.parametrize("solver", IN_TORCH)
def test_the_same_steps_have_the_same_gradient(solver, gradient):
    steps = FixedSteps(grid_of(solver))
    for dtype, allowed in ((F64, 1e-10), (torch.float32, 1e-5)):
        exact, _ = gradients("direct", solver, dtype, controller=steps)
        found, _ = gradients(gradient, solver, dtype, controller=steps)
        assert off(found, exact) < allowed


@replayed
@pytest.mark.parametrize("solver", [n for n in IN_TORCH if ode_core.solvers[n].adaptive])
def test_chosen_steps_are_made_again_as_they_were(solver, gradient):
    tolerance = 1e-4 if ode_core.solvers[solver].order < 3 else 1e-7
    options = {"rtol": tolerance, "atol": tolerance, "dt": 0.5}
    exact, first = gradients("direct", solver, **options)
    found, second = gradients(gradient, solver, **options)
    assert torch.equal(flat(first.ys), flat(second.ys))
    # Implicit stages are solved to a part of the tolerance at first, to round-off later.
    implicit = ode_core.solvers[solver].implicit
    assert off(found, exact) < (tolerance / 100 if implicit else 1e-10)


@replayed
@pytest.mark.parametrize("times", [(0.0, 0.5, 1.0), (1.0, 0.2, 0.0)], ids=str)
def test_a_strangers_solver_is_differentiated_too(gradient, times):
    exact, _ = gradients("direct", Stranger(), times=times, dt=0.07)
    found, _ = gradients(gradient, Stranger(), times=times, dt=0.07)
    assert off(found, exact) < 1e-13


@pytest.mark.parametrize("name", ["checkpoint", "symplectic"])
@pytest.mark.parametrize("solver", OUTSIDE)
def test_solvers_outside_of_torch_are_refused(name, solver):
    with pytest.raises(UnsupportedError, match="takes its steps outside of torch"):
        solve(lotka_volterra, torch.ones(2), [0.0, 1.0], solver=solver, gradient=name)


@replayed
def test_jumps_and_outputs_between_steps(gradient):
    def run(gradient):
        rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.3], dtype=F64, requires_grad=True)
        f = lambda t, y: rate * torch.where(t < 0.5, -y, y.sin())
        times = torch.linspace(0.0, 1.0, 41, dtype=F64)
        for solver in ("dopri5", "adams_moulton", "dopri8"):
            ys = solve(f, y0, times, solver=solver, gradient=gradient, jump_times=[0.25, 0.5]).ys
            yield from torch.autograd.grad((ys * times[:, None]).sum(), [y0, rate])

    assert off(list(run(gradient)), list(run("direct"))) < 1e-10


@replayed
def test_events_and_resets(gradient):
    bounce = ode_core.Event(lambda t, y: y[0], direction=-1, reset=lambda t, y: -0.8 * y)

    def run(gradient, solver):
        pull = torch.tensor(9.81, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
        f = lambda t, y: torch.stack([y[1], -pull])
        solution = solve(f, y0, [0.0, 0.3, 1.0], solver=solver, gradient=gradient, event=bounce)
        assert len(solution.events) > 0
        loss = solution.ys[-1].sum() + solution.events[0].t
        return torch.autograd.grad(loss, [y0, pull])

    for solver in ("dopri5", "adams_bashforth"):
        assert off(run(gradient, solver), run("direct", solver)) < 1e-10


@replayed
@pytest.mark.parametrize("solver", ["adams_moulton", "leapfrog", "dopri5"])
def test_a_solve_that_goes_on_from_another_has_the_gradient_of_both(gradient, solver):
    """With a multistep method gradients come back through its history, too."""
    options = {"dt": 0.1} if solver == "leapfrog" else {"rtol": 1e-7, "atol": 1e-7}

    def run(first, second):
        net, y0, wanted = problem(solver)
        begun = solve(net, y0, [0.0, 0.5], solver=solver, gradient=first, **options)
        ys = solve(net, begun.state, [0.5, 1.0], solver=solver, gradient=second, **options).ys
        return torch.autograd.grad(ys[-1].sum(), wanted)

    exact = run("direct", "direct")
    for pair in ((gradient, gradient), ("direct", gradient), (gradient, "direct")):
        assert off(run(*pair), exact) < 1e-10


@replayed
@pytest.mark.parametrize("gradient_dtype", [torch.complex128])
def test_complex_states(gradient, gradient_dtype):
    for solver in ("dopri5", "adams_bashforth", "kvaerno5"):
        rate = torch.tensor(0.3 + 1.1j, dtype=gradient_dtype, requires_grad=True)
        y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=gradient_dtype, requires_grad=True)
        # Not holomorphic: conjugation matters.
        f = lambda t, y, rate=rate: rate * y - 0.1 * y.conj() * y
        runs = []
        for method in ("direct", gradient):
            ys = solve(f, y0, [0.0, 0.8], solver=solver, gradient=method,
                       controller=FixedSteps(), dt=0.05).ys  # fmt: skip
            loss = (ys[-1] * (0.3 - 0.4j)).real.sum()
            runs.append(torch.autograd.grad(loss, [y0, rate]))
        assert off(runs[1], runs[0]) < 1e-10


def test_shared_and_frozen_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2, dtype=F64)
            self.second = nn.Linear(2, 2, dtype=F64)
            self.second.weight = self.first.weight
            self.second.bias.requires_grad_(False)

        def forward(self, t, y):
            return self.second(torch.tanh(self.first(y)))

    def run(gradient):
        torch.manual_seed(2)
        net = Tied()
        solve(net, torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient).ys[
            -1
        ].sum().backward()
        assert net.second.bias.grad is None
        return [net.first.weight.grad, net.first.bias.grad]

    for gradient in REPLAYED:
        assert off(run(gradient), run("direct")) < 1e-12


@pytest.mark.parametrize("gradient", ["direct", *REPLAYED], ids=["direct", *NAMES])
def test_gradcheck(gradient):
    rate = torch.tensor(1.5, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.7], dtype=F64, requires_grad=True)

    def end(y0, rate, **options):
        f = lambda t, y: torch.stack([rate * y[0] - y[0] * y[1], -y[1] + y[0] * y[1]])
        return solve(f, y0, [0.0, 0.4, 1.0], gradient=gradient, **options).ys

    for options in (
        {"solver": "rk4", "dt": 0.2},
        {"rtol": 1e-8, "atol": 1e-8},
        {"solver": "adams_moulton", "rtol": 1e-9, "atol": 1e-9},
    ):
        # Steps that move by a little move the result by the tolerance.
        slack = {} if "dt" in options else {"eps": 1e-3, "atol": 1e-4, "rtol": 1e-4}
        check = lambda y0, rate, options=options: end(y0, rate, **options)
        assert torch.autograd.gradcheck(check, (y0, rate), **slack)


# Integrated with the variational equations in 128-bit arithmetic: component 1, component 2.
LOTKA_VOLTERRA = [
    (1.965996054728169080621, -2.743979155920181058254),
    (0.1885687770780593063096, 0.2117134891466831362505),
    (2.160557523562618032039, -6.256770517220815997801),
    (0.1885687770780593063096, -0.6979775889893584812978),
    (0.5631827941681977203545, -1.709017680597934826676),
    (0.9396512871530797614826, -2.743979155920181058254),
]


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "symplectic"])
def test_lotka_volterras_known_sensitivities(gradient):
    wanted = [
        torch.tensor(v, dtype=F64, requires_grad=True) for v in (1.0, 1.0, 1.5, 1.0, 3.0, 1.0)
    ]

    def f(t, y):
        _, _, a, b, c, d = wanted
        return torch.stack([a * y[0] - b * y[0] * y[1], -c * y[1] + d * y[0] * y[1]])

    end = solve(f, torch.stack(wanted[:2]), [0.0, 10.0], solver="dopri8", gradient=gradient,
                rtol=1e-12, atol=1e-12).ys[-1]  # fmt: skip
    found = [torch.autograd.grad(end[i], wanted, retain_graph=True) for i in range(2)]
    for k, values in enumerate(LOTKA_VOLTERRA):
        assert [row[k].item() for row in found] == pytest.approx(values, rel=1e-8)


VAN_DER_POL = {1: -0.345708995, 3: -3.97836057, 5: 0.203333764, 10: 0.146998860}


@pytest.mark.parametrize(
    "gradient", ["direct", "checkpoint", "symplectic", Checkpoint(bytes=640)], ids=str
)
@pytest.mark.parametrize("mu", VAN_DER_POL)
def test_van_der_pol_where_the_adjoint_fails(gradient, mu):
    rate = torch.tensor(float(mu), dtype=F64, requires_grad=True)
    f = lambda t, y: torch.stack([y[1], rate * (1 - y[0] ** 2) * y[1] - y[0]])
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    end = solve(f, y0, [0.0, 2.0 * (mu + 1)], gradient=gradient, rtol=1e-6, atol=1e-6).ys[-1, 0]
    (found,) = torch.autograd.grad(end, rate)
    assert found.item() == pytest.approx(VAN_DER_POL[mu], rel=1e-3)


@replayed
def test_f_is_evaluated_without_gradients_in_the_forward_solve(gradient):
    recorded = []

    class Spy(Net):
        def forward(self, t, y):
            recorded.append(torch.is_grad_enabled())
            return super().forward(t, y)

    for solver in ("dopri5", "adams_moulton", "kvaerno5"):
        recorded.clear()
        solution = solve(Spy(), torch.ones(1, 2, dtype=F64), [0.0, 0.3, 1.0], solver=solver,
                         gradient=gradient)  # fmt: skip
        assert len(recorded) == solution.stats.f_calls
        assert not any(recorded)
        recorded.clear()
        solution.ys.sum().backward()
        assert len(recorded) >= solution.stats.backward_f_calls > 0


def test_one_network_graph_at_a_time():
    """What autograd saves at any time while symplectic goes back, in evaluations' worth."""

    def peak(gradient, dt):
        alive, most = [0], [0]

        class Held:
            def __init__(self, x):
                self.x, self.size = x, x.numel()
                alive[0] += self.size
                most[0] = max(most[0], alive[0])

            def __del__(self):
                alive[0] -= self.size

        weight = torch.randn(50, 50, dtype=F64, requires_grad=True)
        deep = lambda t, y: torch.tanh(
            torch.tanh(torch.tanh(torch.tanh(y @ weight) @ weight)) @ weight
        )
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
            ys = solve(deep, torch.ones(1000, 50, dtype=F64), [0.0, 1.0], solver="rk4", dt=dt,
                       gradient=gradient).ys  # fmt: skip
            ys[-1].sum().backward()
        # The states that are kept, one a step and the last, are shown to autograd, too.
        kept = 0 if gradient == "direct" else round(1 / dt) + 1
        return most[0] / (1000 * 50) - kept

    one, few, many = peak("symplectic", 0.25), peak("checkpoint", 0.25), peak("direct", 0.25)
    assert one < 4 + 8.5, "the states of four stages, and one evaluation"
    assert few > 4 * 5, "four evaluations"
    assert many > 16 * 5, "four times four evaluations"
    assert peak("symplectic", 0.05) == pytest.approx(one)


@pytest.mark.parametrize(
    ("solver", "evaluations"),
    [("euler", 1), ("rk4", 7), ("rk4_38", 7), ("dopri5", 11), ("dopri8", 23), ("alf", 1)],
)
def test_the_last_evaluation_of_a_step_is_made_once(solver, evaluations):
    """Symplectic makes the others of a step twice: for their values, then for their graphs."""
    net, y0, _ = problem(solver)

    def calls(steps):
        solution = solve(net, y0, [0.0, 1.0], solver=solver, gradient="symplectic",
                         controller=FixedSteps(), dt=1.0 / steps)  # fmt: skip
        solution.ys[-1].sum().backward()
        return solution.stats.backward_f_calls

    assert calls(20) - calls(10) == 10 * evaluations


@pytest.mark.parametrize(("solver", "evaluations"), [("adams_bashforth", 1), ("adams_moulton", 2)])
@replayed
def test_an_adams_step_is_pulled_back_with_its_own_evaluations(gradient, solver, evaluations):
    net, y0, _ = problem(solver)

    def calls(steps):
        solution = solve(net, y0, [0.0, 1.0], solver=solver, gradient=gradient,
                         controller=FixedSteps(), dt=1.0 / steps)  # fmt: skip
        solution.ys[-1].sum().backward()
        return solution.stats.backward_f_calls

    if gradient in ("checkpoint", "symplectic"):
        assert calls(20) - calls(10) == 10 * evaluations
    else:
        assert calls(20) - calls(10) > 10 * evaluations, "states are made again, too"


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
def test_direct_keeps_at_most_eight_buffers_a_step(solver):
    def saved(steps):
        kept = set()

        def keep(x):
            if x.numel() == 4000:
                kept.add(x.data_ptr())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            y0 = torch.ones(4000, dtype=F64, requires_grad=True)
            ys = solve(lambda t, y: torch.sin(y), y0, [0.0, 1.0], solver=solver, dt=1.0 / steps,
                       controller=FixedSteps()).ys  # fmt: skip
        assert ys.requires_grad
        return len(kept)

    assert (saved(20) - saved(10)) / 10 <= 8


def test_a_tensor_that_f_returns_stays_out_of_every_graph():
    constant = torch.ones(2, dtype=F64)
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    ys = solve(lambda t, y: constant, y0, [0.0, 1.0], gradient=Symplectic()).ys
    assert torch.equal(torch.autograd.grad(ys[-1].sum(), y0)[0], constant)
    assert not constant.requires_grad
