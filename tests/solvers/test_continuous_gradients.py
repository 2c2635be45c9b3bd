"""Adjoints by a backward solve: right or refused, in little memory, at few evaluations."""

from __future__ import annotations

import gc
import itertools
import math
import warnings

import pytest
import torch

import ode_core
from ode_core import ArgumentError, Event, SolveError, UnsupportedError, solve
from ode_solvers import Adjoint, Interpolated, Reversible
from ode_solvers.gradients import stages
from ode_solvers.gradients.anchors import Anchors
from ode_solvers.gradients.quadrature import GAUSS, KRONROD
from ode_solvers.gradients.stages import ByStages
from tests.problems import F64, lotka_volterra

COUPLED = Reversible("dopri5")
# d x(2 (mu + 1)) / d mu of Van der Pol's equation from (2, 0).
VAN_DER_POL = {1: -0.345708995, 3: -3.97836057, 5: 0.203333764, 10: 0.146998860}
METHODS = {"adjoint": "dopri5", "interpolated": "dopri5", "reversible": COUPLED}


def van_der_pol_gradient(mu, gradient, solver="dopri5", tolerance=1e-6):
    stiffness = torch.tensor(float(mu), dtype=F64, requires_grad=True)
    f = lambda t, y: torch.stack([y[1], stiffness * (1 - y[0] ** 2) * y[1] - y[0]])
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    x = solve(f, y0, [0.0, 2.0 * (mu + 1)], solver=solver, gradient=gradient, rtol=tolerance,
              atol=tolerance).ys[-1, 0]  # fmt: skip
    return torch.autograd.grad(x, stiffness)[0].item()


@pytest.mark.parametrize("gradient", METHODS)
@pytest.mark.parametrize("mu", VAN_DER_POL)
def test_van_der_pol_is_right_or_refused(mu, gradient):
    try:
        found = van_der_pol_gradient(mu, gradient, METHODS[gradient])
    except SolveError:
        found = None
    if mu == 1 or gradient == "interpolated":
        assert found is not None
    if found is not None:
        assert found == pytest.approx(VAN_DER_POL[mu], rel=1e-3)


def test_without_the_belt_van_der_pol_is_wrong_in_silence_and_with_anchors_it_is_not():
    assert abs(van_der_pol_gradient(5, Adjoint(anchors=0))) > 1e6
    with pytest.raises(SolveError, match="the backward solve of gradient='adjoint'"):
        van_der_pol_gradient(5, "adjoint")
    # More anchors and a tighter way back, and the reconstruction never strays: mu = 3 needs both.
    away = "left the forward solution: at t = .* tolerances away.* more anchors"
    with pytest.raises(SolveError, match=away):
        van_der_pol_gradient(3, "adjoint")
    closely = Adjoint(anchors=64, rtol=1e-8, atol=1e-8)
    assert van_der_pol_gradient(3, closely) == pytest.approx(VAN_DER_POL[3], rel=1e-4)


def decay_gradient(rate, gradient, solver="dopri5", dtype=F64):
    """d y(3) / d rate of y' = rate (y - cos t) - sin t from y(0) = 1.5, 0.5 t exp(rate t)."""
    k = torch.tensor(float(rate), dtype=dtype, requires_grad=True)
    f = lambda t, y: k * (y - torch.cos(t)) - torch.sin(t)
    y0 = torch.tensor([1.5], dtype=dtype)
    end = solve(f, y0, [0.0, 3.0], solver=solver, gradient=gradient, rtol=1e-6, atol=1e-6).ys[-1]
    return torch.autograd.grad(end.sum(), k)[0].item()


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("gradient", METHODS)
@pytest.mark.parametrize("rate", [-5, -50, -100])
def test_stiffer_decays_are_right_or_refused(rate, gradient, dtype):
    try:
        found = decay_gradient(rate, gradient, METHODS[gradient], dtype)
    except SolveError:
        assert gradient == "reversible" or (gradient == "adjoint" and rate < -10)
        return
    assert found == pytest.approx(1.5 * math.exp(3 * rate), abs=1e-5)


@pytest.mark.parametrize("solver", ["kvaerno5", "dopri8", "bosh3", "adams_moulton", "scipy_radau"])
def test_interpolated_goes_by_the_dense_output_of_any_solver(solver):
    assert decay_gradient(-50, "interpolated", solver) == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(SolveError, match="backward solve of gradient='adjoint'"):
        decay_gradient(-50, "adjoint", solver)


# Integrated with the variational equations in 128-bit arithmetic: d(x, y)(10) by each.
LOTKA_VOLTERRA = {
    "x0": (1.965996054728169, -2.743979155920181),
    "y0": (0.1885687770780593, 0.2117134891466831),
    "a": (2.160557523562618, -6.256770517220816),
    "b": (0.1885687770780593, -0.6979775889893585),
    "c": (0.5631827941681977, -1.709017680597935),
    "d": (0.9396512871530798, -2.743979155920181),
}


@pytest.mark.parametrize(
    ("gradient", "solver", "bound"),
    [("adjoint", "dopri8", 1e-8), ("interpolated", "dopri8", 1e-6), ("reversible", "alf", 2e-3)],
)
def test_lotka_volterras_known_sensitivities(gradient, solver, bound):
    start = torch.ones(2, dtype=F64, requires_grad=True)
    rates = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=F64, requires_grad=True)

    def f(t, y):
        a, b, c, d = rates
        return torch.stack([a * y[0] - b * y[0] * y[1], -c * y[1] + d * y[0] * y[1]])

    chosen = {"dt": 8e-3} if solver == "alf" else {"rtol": 1e-11, "atol": 1e-11}
    end = solve(f, start, [0.0, 10.0], solver=solver, gradient=gradient, **chosen).ys[-1]
    rows = [torch.cat(torch.autograd.grad(end[i], [start, rates], retain_graph=True))
            for i in range(2)]  # fmt: skip
    wanted = torch.tensor(list(LOTKA_VOLTERRA.values()), dtype=F64).T
    assert (torch.stack(rows) - wanted).abs().max() < bound


@pytest.mark.parametrize("gradient", METHODS)
def test_complex_states(gradient):
    rate = torch.tensor(0.1 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=torch.complex128, requires_grad=True)
    ys = solve(lambda t, y: rate * y, y0, [0.0, 0.4, 0.8], solver=METHODS[gradient],
               gradient=gradient, rtol=1e-10, atol=1e-10).ys  # fmt: skip
    found = torch.autograd.grad((ys[1:] * (0.3 - 0.4j)).real.sum(), [y0, rate])
    truth = sum((y0 * (t * rate).exp() * (0.3 - 0.4j)).real.sum() for t in (0.4, 0.8))
    exact = torch.autograd.grad(truth, [y0, rate])
    assert all(torch.allclose(a, b, rtol=1e-7) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("gradient", METHODS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_of_times_move_states_along_the_field(gradient, sign):
    y0 = torch.tensor([2.0], dtype=F64)
    t = torch.tensor([0.3, 0.3, 1.0, 1.0, 2.0], dtype=F64).mul(sign).requires_grad_()
    f = lambda t, y: -y * t
    ys = solve(f, y0, t, solver=METHODS[gradient], gradient=gradient, rtol=1e-9, atol=1e-9).ys
    (found,) = torch.autograd.grad(ys[2:].sum(), t)
    exact = [2 * math.exp((0.09 - s * s) / 2) for s in (1.0, 1.0, 2.0)]
    wanted = [0.3 * sum(exact), 0.0, -exact[0], -exact[1], -2 * exact[2]]
    assert found.tolist() == pytest.approx([sign * x for x in wanted], rel=1e-5)


def fall(t, y):
    return torch.stack([y[1], torch.full_like(y[1], -9.81)])


@pytest.mark.parametrize("gradient", METHODS)
def test_gradients_pass_through_resets_and_event_times(gradient):
    """A ball dropped from h, a bounce with 0.8 of the speed: highest again at sqrt(2h/g) 1.8."""
    bounce = Event(lambda t, y: y[0], direction=-1, reset=lambda t, y: torch.stack(
        [torch.zeros_like(y[0]), -0.8 * y[1]]))  # fmt: skip
    top = Event(lambda t, y: y[1], direction=-1)
    height = torch.tensor(1.3, dtype=F64, requires_grad=True)
    y0 = torch.stack([height, torch.zeros_like(height)])
    solution = solve(fall, y0, [0.0, 0.2, 9.0], event=[bounce, top], solver=METHODS[gradient],
                     gradient=gradient, rtol=1e-9, atol=1e-9)  # fmt: skip
    found = torch.autograd.grad(solution.event.t + 3 * solution.event.y[0], height)[0].item()
    wanted = 1.8 * 0.5 * math.sqrt(2 / (9.81 * 1.3)) + 3 * 0.64
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("gradient", METHODS)
def test_second_derivatives_are_refused_by_name(gradient):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    ys = solve(lotka_volterra, y0, [0.0, 0.5], solver=METHODS[gradient], gradient=gradient).ys
    with pytest.raises(UnsupportedError, match=f"'{gradient}' offers no second derivatives"):
        torch.autograd.grad(ys.sum(), y0, create_graph=True)


class Net(torch.nn.Module):
    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)
        ).double()
        self.turn = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=F64)

    def forward(self, t, y):
        return self.layers(y) * torch.cos(t) + y @ self.turn


def trained(gradient, times, last=False, **options):
    """Return the gradients in one vector, and the statistics."""
    net, y0 = Net(), torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=F64, requires_grad=True)
    solution = solve(net, y0, times, gradient=gradient, **options)
    loss = (solution.ys[-1:] if last else solution.ys).square().sum()
    found = torch.autograd.grad(loss, [y0, *net.parameters()])
    return torch.cat([g.flatten() for g in found]), solution.stats


def off(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("gradient", [Adjoint(), Interpolated()], ids=["adjoint", "interpolated"])
def test_outputs_add_impulses_and_no_restarts(gradient):
    """101 outputs cost no more than a step and one evaluation each, beyond the steps as such."""
    calls = {}
    for count in (2, 11, 101):
        times = torch.linspace(0, 5, count, dtype=F64)
        found, stats = trained(gradient, times, rtol=1e-6, atol=1e-6)
        calls[count] = stats.backward_f_calls
        assert off(found, trained("direct", times, rtol=1e-10, atol=1e-10)[0]) < 1e-4
    assert calls[11] < 1.35 * calls[2]
    assert calls[101] <= 7 * 101 + 0.2 * calls[2]
    # An output that the loss does not look at is no place to stop at.
    _, ends = trained(gradient, torch.linspace(0, 5, 101), last=True, rtol=1e-6, atol=1e-6)
    assert ends.backward_f_calls <= 1.02 * calls[2]


@pytest.mark.parametrize("name", ["dopri5", "dopri8", "bosh3", "rk4", "euler"])
@pytest.mark.parametrize("norm", ["full", "semi"])
def test_the_sums_are_what_the_solver_would_integrate(name, norm, monkeypatch):
    """The same steps with the parameters' gradient inside the state and outside of it."""
    monkeypatch.setattr(stages, "_MARGIN", 0.0)  # the same first step
    adaptive = ode_core.solvers[name].adaptive
    options = {"rtol": 1e-6, "atol": 1e-6} if adaptive else {"dt": 0.05}
    times = [0.0, 0.4, 1.0]
    inside = Adjoint(norm=norm, anchors=0, backward=lambda adjoint, plan, times: plan)
    a, first = trained(inside, times, solver=name, **options)
    b, second = trained(Adjoint(norm=norm, anchors=0), times, solver=name, **options)
    # Where the solve ends or starts anew dopri8 is not asked for a slope to go on with.
    saved = 2 if name == "dopri8" else 0
    assert first.backward_f_calls - saved == second.backward_f_calls
    assert off(b, a) < 1e-12


@pytest.mark.parametrize("name", ["kvaerno5", "trbdf2", "adams_moulton", "adams_bashforth"])
@pytest.mark.parametrize("norm", ["full", "semi"])
def test_other_solvers_sums_converge_with_the_tolerance(name, norm):
    exact, _ = trained("direct", [0.0, 1.0], rtol=1e-11, atol=1e-11)
    errors = [
        off(trained(Adjoint(norm=norm), [0.0, 1.0], solver=name, rtol=x, atol=x)[0], exact)
        for x in (1e-4, 1e-7)
    ]
    assert errors[0] < 2e-2
    assert errors[1] < 1e-4


@pytest.mark.parametrize("name", ["dopri5", "rk4", "kvaerno5"])
def test_no_stage_holds_a_copy_of_the_parameters(name, monkeypatch):
    seen = set()

    def watch(kind):
        real = kind.step

        def step(self, field, t0, t1, y, carry, tolerance):
            seen.add(y.numel())
            return real(self, field, t0, t1, y, carry, tolerance)

        monkeypatch.setattr(kind, "step", step)

    watch(type(ode_core.solvers.create(name)))
    watch(ByStages)
    options = {"dt": 0.25} if name == "rk4" else {}
    trained("adjoint", [0.0, 1.0], solver=name, **options)
    assert seen == {4, 8}


def test_quadrature_rules_have_their_orders():
    for order, rule in (
        *GAUSS,
        (6, [row[:2] for row in KRONROD]),
        (8, [row[:2] for row in KRONROD]),
    ):
        for power in range(min(order, 6 if len(rule) == 3 else order)):
            assert sum(w * c**power for c, w in rule) == pytest.approx(1 / (power + 1), abs=1e-15)
    inner = [(c, w - d) for c, w, d in KRONROD]
    for power in range(4):
        assert sum(w * c**power for c, w in inner) == pytest.approx(1 / (power + 1), abs=1e-15)
    assert abs(sum(d * c**4 for c, _, d in KRONROD)) > 1e-3


def test_the_full_norm_controls_a_parameters_gradient_that_the_state_does_not_show():
    """Only the parameter's gradient sees the fast part of f, which the state averages out."""

    def found(norm):
        k = torch.tensor(1e-9, dtype=F64, requires_grad=True)
        f = lambda t, y: -y + k * torch.sin(60 * t) ** 2
        y0 = torch.ones(1, dtype=F64)
        s = solve(f, y0, [0.0, 2.0], gradient=Adjoint(norm=norm), rtol=1e-8, atol=1e-8)
        return torch.autograd.grad(s.ys[-1].sum(), k)[0].item(), s.stats.backward_f_calls

    w = 120.0
    # The integral of exp(-(2 - s)) (1 - cos(120 s)) / 2 over [0, 2].
    wave = (math.cos(2 * w) + w * math.sin(2 * w) - math.exp(-2)) / (1 + w * w)
    exact = (1 - math.exp(-2) - wave) / 2
    full, calls = found("full")
    semi, fewer = found("semi")
    assert abs(full - exact) < 1e-7
    assert abs(semi - exact) > 10 * abs(full - exact)
    assert fewer < calls


def test_anchors_are_few_and_spread():
    anchors = Anchors(16)
    for index in range(1, 1001):
        anchors.see(float(index), torch.tensor(index))
    times = list(anchors.states)
    assert 8 <= len(times) <= 16
    assert {b - a for a, b in itertools.pairwise(times)} == {times[0]}
    assert times[-1] > 900
    few = Anchors(16)
    for index in range(1, 8):
        few.see(float(index), torch.tensor(index))
    assert list(few.states) == [4.0], "a short solve keeps none, or nearly"
    none = Anchors(0)
    none.see(4.0, torch.tensor(0))
    assert none.states == {}


def test_fixed_steps_that_drift_warn_once_and_the_plain_algorithm_does_not():
    with pytest.warns(
        ode_core.GradientWarning, match="may be far off; take gradient='checkpoint'"
    ) as seen:
        trained("adjoint", [0.0, 1.0], solver="euler", dt=0.05)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(Adjoint(anchors=0), [0.0, 1.0], solver="euler", dt=0.05)
        trained("adjoint", [0.0, 1.0], solver="rk4", dt=0.02)


def test_drift_can_be_made_a_warning():
    with pytest.warns(ode_core.GradientWarning, match="left the forward solution"):
        decay_gradient(-50, Adjoint(drift="warn"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchors": -1}, "anchors is a number of states"),
        ({"anchors": 2.5}, "anchors is a number of states"),
        ({"drift": "ignore"}, "drift='raise' or drift='warn'"),
        ({"anchors": 0, "drift": "warn"}, "no effect with anchors=0"),
    ],
)
def test_what_the_belt_does_not_take(options, message):
    with pytest.raises(ArgumentError, match=message):
        Adjoint(**options)


def test_one_step_has_no_anchors_so_that_the_studys_figures_are_the_plain_algorithms():
    for solver in ("euler", "midpoint", "rk4"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            a, first = trained("adjoint", [0.0, 1.0], solver=solver, dt=1.0)
        b, second = trained(Adjoint(anchors=0), [0.0, 1.0], solver=solver, dt=1.0)
        assert torch.equal(a, b)
        assert first.backward_f_calls == second.backward_f_calls


class Turn(torch.nn.Module):
    """Motion that goes on; one parameter."""

    def __init__(self):
        super().__init__()
        self.speed = torch.nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, t, y):
        return self.speed * torch.stack([y[1], -y[0]])


def held_bytes(gradient, steps, solver="reversible_heun"):
    """Return the bytes of the tensors that live until the backward pass because of a solve.

    Tensors are counted wherever they hang: in the graph, in closures, in lists.
    """

    def tensors():
        gc.collect()
        found = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
        return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}

    y0, f = torch.ones(2, 1000, dtype=F64), Turn()
    before = tensors()
    # Saved tensors come to light as Python's own.
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (x.detach(),), lambda x: x[0]):
        ys = solve(f, y0, [0.0, 1.0], solver=solver, gradient=gradient, dt=1.0 / steps).ys
    after = tensors()
    del ys
    return sum(size for place, size in after.items() if place not in before)


@pytest.mark.parametrize(
    ("gradient", "solver", "states"),
    [("reversible", "reversible_heun", 8), ("adjoint", "rk4", 21), (Adjoint(anchors=0), "rk4", 5)],
    ids=["reversible", "adjoint", "plain"],
)
def test_memory_held_for_backward_does_not_grow_with_the_steps(gradient, solver, states):
    state = 16_000
    sizes = [held_bytes(gradient, steps, solver) for steps in (10, 300)]
    assert max(sizes) <= states * state
    assert held_bytes("direct", 100, solver) > 80 * state


def test_interpolated_holds_a_piece_a_step():
    sizes = [held_bytes("interpolated", steps, "rk4") for steps in (10, 100)]
    assert 5 < sizes[1] / sizes[0] < 12
