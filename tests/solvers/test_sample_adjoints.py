"""Adjoints of solves in which every sample has its own steps: back over each one's own."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ode_core
from ode_core import Event, GradientWarning, SolveError, UnsupportedError, Verified, solve
from ode_solvers import Adjoint, Reversible
from ode_solvers.gradients.sample_anchors import SampleAnchors
from tests.problems import F64
from tests.solvers.test_continuous_gradients import VAN_DER_POL

continuous = pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
NAN = math.nan
# Both directions, one that ends early, one that has ended at its start.
TIMES = torch.tensor(
    [[0.0, 0.5, 1.0, 2.0], [1.5, 1.0, 1.0, 0.2], [0.0, 0.4, NAN, NAN], [0.5, NAN, NAN, NAN]],
    dtype=F64,
)
STARTS = torch.tensor([[2.0, 0.0], [1.0, 0.5], [0.2, -1.0], [1.0, 1.0]], dtype=F64)
PER_SAMPLE = {"stepping": "per_sample"}


def tight(tolerance=1e-9):
    return {"rtol": tolerance, "atol": tolerance} | PER_SAMPLE


class Oscillators(nn.Module):
    """Van der Pol's equation, with a stiffness for each sample and a spring that all share.

    `kick` is a force that sets in at its time.
    """

    def __init__(self, kick=None):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor([0.3, 1.0, 1.5, 0.5], dtype=F64))
        self.spring = nn.Parameter(torch.tensor(1.1, dtype=F64))
        self.kick = kick

    def forward(self, t, y, drive):
        x, v = y.unbind(1)
        force = drive * torch.sin(t)
        if self.kick is not None:
            force = force + torch.where(t > self.kick, self.spring, -0.5)
        return torch.stack([v, self.mu * (1 - x**2) * v - self.spring * x + force], 1)


def gradients(gradient, times=TIMES, kick=None, **options):
    net = Oscillators(kick)
    drive = torch.tensor(0.1, dtype=F64, requires_grad=True)
    y0, t = STARTS.clone().requires_grad_(), times.clone().requires_grad_()
    solution = solve(net, y0, t, gradient=gradient, args=(drive,), **(tight() | options))
    ys = torch.where(solution.ys.isnan(), 0.0, solution.ys)
    weights = torch.arange(ys.numel(), dtype=F64).reshape(ys.shape)
    loss = (ys * (1 + weights / 10)).sin().sum()
    return torch.autograd.grad(loss, [y0, t, drive, net.mu, net.spring]), solution


def off(found, exact):
    pairs = zip(found, exact, strict=True)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-300)) for a, b in pairs)


@continuous
def test_every_gradient_converges_with_the_tolerance(gradient):
    errors = [
        off(gradients(gradient, **tight(x))[0], gradients("direct", **tight(x))[0])
        for x in (1e-5, 1e-9)
    ]
    assert errors[0] < 1e-3
    assert errors[1] < min(1e-7, errors[0] / 100)


@continuous
@pytest.mark.parametrize(
    ("solver", "options", "bound"),
    [
        ("dopri8", tight(1e-10), 1e-7),
        ("bosh3", tight(1e-6), 1e-4),
        ("adams_moulton", tight(1e-7), 1e-5),
        ("rk4", {"dt": 0.04}, 1e-6),
        ("heun", {"dt": 0.02}, 1e-3),
    ],
)
def test_any_solver(gradient, solver, options, bound):
    options = {"rtol": None, "atol": None, "solver": solver} | options
    assert off(gradients(gradient, **options)[0], gradients("direct", **options)[0]) < bound


@continuous
@pytest.mark.parametrize(
    ("steps", "bound"),
    [(tight(), 1e-6), ({"solver": "rk4", "dt": 0.05, "rtol": None, "atol": None}, 1e-4)],
)
def test_steps_begin_anew_at_both_sides_of_jumps(gradient, steps, bound):
    """Outputs at either side of one, and samples that end, or begin, on theirs."""
    times = torch.full((4, 4), NAN, dtype=F64)
    times[0] = torch.tensor([0.0, math.nextafter(0.7, 1.0), 1.0, 2.0], dtype=F64)
    times[1, :3] = torch.tensor([1.5, 1.0, 0.7], dtype=F64)
    times[2, :2], times[3, 0] = torch.tensor([0.7, 1.1], dtype=F64), 0.5
    jumps = torch.tensor([[0.7, 2.0], [0.7, NAN], [0.7, NAN], [NAN, NAN]], dtype=F64)
    options = {"kick": 0.7, "times": times, "jump_times": jumps} | steps
    assert off(gradients(gradient, **options)[0], gradients("direct", **options)[0]) < bound


@continuous
def test_a_batch_of_one_is_the_shared_solve(gradient):
    def run(**options):
        rate = torch.tensor([[0.1, 1.0], [-1.2, -0.2]], dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
        t = torch.tensor([0.0, 1.0, 3.0], dtype=F64, requires_grad=True)
        ys = solve(lambda t, y: y @ rate.T + t, y0, t, rtol=1e-9, atol=1e-9, **options).ys
        return torch.autograd.grad(ys.square().sum(), [y0, rate, t])

    exact = run(gradient="direct")
    assert off(run(gradient=gradient), exact) < 1e-7
    assert off(run(gradient=gradient, **PER_SAMPLE), exact) < 1e-7


@pytest.mark.parametrize("gradient", ["adjoint", "interpolated", "reversible"])
def test_an_empty_batch_has_gradients_of_zero(gradient):
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.zeros(0, 2, dtype=F64, requires_grad=True)
    solver = "alf" if gradient == "reversible" else "rk4"
    ys = solve(lambda t, y: -rate * y, y0, [0.0, 1.0], gradient=gradient, solver=solver, dt=0.1,
               **PER_SAMPLE).ys  # fmt: skip
    (found,) = torch.autograd.grad(ys.sum(), y0)
    assert found.shape == (0, 2)


@continuous
@pytest.mark.parametrize("steps", [tight(1e-6), {"solver": "rk4", "dt": 0.01} | PER_SAMPLE])
def test_a_sample_that_fails_leaves_the_others_gradients(gradient, steps):
    """y' = rate y^2 blows up at 1 / (rate y0); what it had reached before still counts."""
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.1]], dtype=F64, requires_grad=True)
    solution = solve(lambda t, y: rate * y * y, y0, [0.0, 0.5, 2.0], gradient=gradient,
                     on_failure="return", **steps)  # fmt: skip
    assert [x.failed for x in solution.status] == [True, False]
    ys = solution.ys
    found = torch.autograd.grad(ys[1, 0, 0] + ys[2, 1, 0], [rate, y0])
    truth = y0[0, 0] / (1 - 0.5 * rate * y0[0, 0]) + y0[1, 0] / (1 - 2 * rate * y0[1, 0])
    assert off(found, torch.autograd.grad(truth, [rate, y0])) < 1e-4


@continuous
def test_complex_states_and_structures(gradient):
    rate = torch.tensor([[0.1 + 1.1j], [-0.2 + 0.5j]], dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1 + 0.5j, -0.2j], [0.3, 1j]], dtype=torch.complex128, requires_grad=True)
    times = torch.tensor([[0.0, 0.4, 0.8], [1.0, 0.5, 0.2]], dtype=F64)
    ys = solve(lambda t, y: (rate * y[0], -y[1]), (y0, y0 * y0), times, gradient=gradient,
               **tight()).ys  # fmt: skip
    found = torch.autograd.grad((ys[0] * (0.3 - 0.4j)).real.sum() + ys[1].real.sum(), [y0, rate])
    gone = (times - times[:, :1]).T[:, :, None]
    truth = (y0 * (gone * rate).exp() * (0.3 - 0.4j)).real + (y0 * y0 * (-gone).exp()).real
    assert off(found, torch.autograd.grad(truth.sum(), [y0, rate])) < 1e-7


@continuous
def test_short_floats(gradient):
    def run(gradient):
        rate = torch.tensor([[0.0, 1.0], [-1.0, -0.1]], requires_grad=True)
        y0 = torch.tensor([[1.0, 0.0], [2.0, 1.0]], requires_grad=True)
        times = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
        ys = solve(lambda t, y: y @ rate.T, y0, times, gradient=gradient, **PER_SAMPLE).ys
        return torch.autograd.grad(ys[-1].square().sum(), [y0, rate])

    assert off(run(gradient), run("direct")) < 1e-4


@continuous
def test_samples_without_a_gradient_take_no_steps_back(gradient):
    """One sample alone is asked about, and a third as many evaluations bring its gradient."""
    rates = torch.tensor([[1.0], [30.0], [30.0]], dtype=F64)

    def run(row):
        y0 = torch.ones(3, 1, dtype=F64, requires_grad=True)
        solution = solve(lambda t, y: torch.cos(rates * t[:, None]) * y, y0, [0.0, 5.0],
                         gradient=gradient, **tight(1e-6))  # fmt: skip
        (found,) = torch.autograd.grad(solution.ys[-1, row].sum(), y0)
        assert found[row].item() == pytest.approx(
            math.exp(math.sin(5 * rates[row]) / rates[row]), rel=1e-4
        )
        assert found.count_nonzero() == 1
        return solution.stats.backward_f_calls

    assert run(0) < run(1) / 3


def van_der_pol(gradient, *stiffness):
    """d x(2 (mu + 1)) / d mu from (2, 0), by sample."""
    mu = torch.tensor(stiffness, dtype=F64, requires_grad=True)
    times = torch.stack([torch.zeros(len(mu)), 2 * (mu.detach() + 1)], 1)
    f = lambda t, y: torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64).expand(len(mu), 2)
    end = solve(f, y0, times, gradient=gradient, **tight(1e-6)).ys[-1, :, 0]
    return torch.autograd.grad(end.sum(), mu)[0].tolist()


def test_van_der_pol_is_right_or_refused_by_sample():
    """The more anchors, the stiffer may a sample be; those that stray are named."""
    known = pytest.approx(list(VAN_DER_POL.values()), rel=1e-3)
    assert van_der_pol("interpolated", *VAN_DER_POL) == known
    assert van_der_pol("adjoint", 1.0) == pytest.approx([VAN_DER_POL[1]], rel=1e-3)
    with pytest.raises(SolveError, match="forward solution of sample 1"):
        van_der_pol("adjoint", 1.0, 5.0)


def decays(rates, gradient, **options):
    """d y(3) / d rate, by sample, of y' = rate (y - cos t) - sin t, that is 0.5 t exp(rate t)."""
    rate = torch.tensor(rates, dtype=F64)[:, None].requires_grad_()
    f = lambda t, y: rate * (y - torch.cos(t)[:, None]) - torch.sin(t)[:, None]
    y0 = torch.full((len(rates), 1), 1.5, dtype=F64)
    end = solve(f, y0, [0.0, 3.0], gradient=gradient, **(tight(1e-6) | options)).ys[-1]
    (found,) = torch.autograd.grad(end.sum(), rate)
    return found[:, 0].tolist()


def test_drift_is_refused_and_the_samples_are_named():
    exact = [1.5 * math.exp(3 * rate) for rate in (-1.0, -30.0, -40.0)]
    assert decays([-1.0, -30.0, -40.0], "interpolated") == pytest.approx(exact, abs=1e-5)
    with pytest.raises(SolveError, match=r"solution of sample 1 \(.* 2\): at t = .* tolerances aw"):
        decays([-1.0, -30.0, -30.0], "adjoint")
    with pytest.warns(GradientWarning, match="left the forward solution"):
        decays([-1.0, -30.0], Adjoint(drift="warn"))
    with pytest.warns(GradientWarning, match="left the forward solution"):
        decays([-1.0, -30.0], "adjoint", solver="rk4", rtol=None, atol=None, dt=0.03)
    assert decays([-1.0], "adjoint") == pytest.approx(exact[:1], abs=1e-5)


def test_anchors_hold_each_sample_on_its_course():
    """Without them the second sample's state, rebuilt, is off by e^24 roundings, and in silence."""
    exact = [1.5 * math.exp(-3.0), 1.5 * math.exp(-24.0)]
    assert decays([-1.0, -8.0], Adjoint(anchors=64)) == pytest.approx(exact, abs=2e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = decays([-1.0, -8.0], Adjoint(anchors=0))
    assert plain[0] == pytest.approx(exact[0], abs=1e-5)
    assert abs(plain[1] - exact[1]) > 1e-6


def test_anchors_are_spread_evenly_over_every_samples_steps():
    start = torch.zeros(2, dtype=F64)
    anchors = SampleAnchors(3, start, start[:, None])
    for k in range(1, 41):
        t1 = torch.tensor([float(k), -float(k)], dtype=F64)
        accepted = torch.tensor([True, k <= 9])
        made = SimpleNamespace(y=t1[:, None].clone())
        anchors.see(SimpleNamespace(rows=torch.arange(2), t1=t1, accepted=accepted, step=made))
    assert anchors.times[1, :2].tolist() == [-4.0, -8.0]
    assert anchors.times[0, :2].tolist() == [16.0, 32.0]
    assert anchors.times[:, 2].isnan().all()
    assert torch.equal(anchors.states[0, :2, 0], anchors.times[0, :2])


def held_states(gradient, steps):
    """How many states of the whole batch are held for the backward pass, graphs' own ones too."""
    y0 = torch.randn(4, 200, dtype=F64)
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    options = {"solver": Reversible("rk4")} if gradient == "reversible" else {"solver": "rk4"}
    held = {}

    def note(x):
        held[x.data_ptr()] = x.numel()
        return (x.detach(),)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept[0]):
        solution = solve(lambda t, y: rate * y.cos(), y0, [0.0, 1.0], gradient=gradient,
                         dt=1 / steps, **PER_SAMPLE, **options)  # fmt: skip
    assert solution.ys.requires_grad
    return sum(held.values()) / y0.numel()


def test_what_is_held_grows_with_the_steps_for_interpolated_alone():
    assert held_states("adjoint", 400) < held_states("adjoint", 100) + 4 < 26
    assert held_states("reversible", 100) == held_states("reversible", 20) < 8
    few, many = (held_states("interpolated", steps) for steps in (20, 40))
    assert many - few == pytest.approx(20 * 5, abs=1)


def test_a_backward_solve_that_cannot_be_finished_names_the_sample():
    rate = torch.tensor([[0.1], [9.0]], dtype=F64, requires_grad=True)
    f = lambda t, y: torch.cos(rate * t[:, None]) * y
    y0 = torch.ones(2, 1, dtype=F64)
    ys = solve(f, y0, [0.0, 5.0], gradient=Adjoint(rtol=1e-10, atol=1e-10), max_steps=150,
               **tight(1e-6)).ys  # fmt: skip
    with pytest.raises(SolveError, match=r"stopped for sample 1 at t = .*: it took max_steps"):
        ys[-1].sum().backward()


def test_the_backward_solve_may_have_settings_of_its_own():
    exact, _ = gradients("direct", **tight(1e-10))
    _, first = gradients("adjoint", **tight(1e-4))
    of_each = torch.full((len(STARTS),), 1e-9, dtype=F64)
    _, second = gradients(Adjoint(rtol=1e-9, atol=of_each), **tight(1e-4))
    assert second.stats.backward_f_calls > 2 * first.stats.backward_f_calls
    given = {"solver": "rk4", "dt": 0.02, "rtol": None, "atol": None}
    found, _ = gradients(Adjoint(solver="dopri5", rtol=1e-9, atol=1e-9), **given)
    assert off(found, exact) < 1e-5
    back, _ = gradients(Adjoint(solver="rk4"), **tight(1e-7))
    assert off(back, exact) < 1e-4


def test_parameters_may_be_named():
    def run(**options):
        net = Oscillators()
        named = (net.mu,)
        y0 = STARTS.clone().requires_grad_()
        method = Adjoint(parameters=named, **options)
        drive = torch.tensor(0.1, dtype=F64, requires_grad=True)
        ys = solve(net, y0, TIMES, gradient=method, args=(drive,), **tight()).ys
        loss = torch.where(ys.isnan(), 0.0, ys).sum()
        return torch.autograd.grad(loss, [net.mu, net.spring, drive], allow_unused=True)

    found = run()
    assert found[0] is not None
    assert found[1:] == (None, None)


@pytest.mark.parametrize("gradient", ["adjoint", "interpolated", "reversible"])
def test_what_has_no_row_is_refused(gradient):
    y0 = torch.ones(2, 1, requires_grad=True)
    solver = {"solver": "alf", "dt": 0.1} if gradient == "reversible" else {}
    start = lambda **options: solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=gradient,
                                    **PER_SAMPLE, **solver, **options)  # fmt: skip
    for options in (
        {"event": Event(lambda t, y: y[:, 0] - 0.5)},
        {"integrand": lambda t, y: y.square()},
    ):
        with pytest.raises(UnsupportedError, match="knows neither events nor integrands"):
            start(**options)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Adjoint(solver="auto"), "the backward solver auto takes shared steps only"),
        (Adjoint(backward=lambda adjoint, plan, times: plan), "replaces a backward solve with sh"),
    ],
)
def test_what_the_backward_solve_cannot_do_is_refused(method, said):
    with pytest.raises(UnsupportedError, match=said):
        gradients(method)


@continuous
def test_a_verification_finds_nothing_to_say(gradient):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = gradients(
            Verified(ode_core.gradients.create(gradient), limit=1e-3), **tight(1e-6)
        )
    assert off(found, gradients("direct")[0]) < 1e-4


def test_the_full_norm_refines_what_the_states_do_not_show():
    """Only the shared parameter's gradient sees the fast part of f, which no sample's error does.

    d y(2) / d k is, by sample, the integral of exp(-r (2 - s)) sin(60 s)^2 over [0, 2].
    """
    rates = torch.tensor([1.0, 0.5], dtype=F64)

    def found(norm):
        k = torch.tensor(1e-9, dtype=F64, requires_grad=True)
        f = lambda t, y: -rates[:, None] * y + (k * torch.sin(60 * t) ** 2)[:, None]
        solution = solve(f, torch.ones(2, 1, dtype=F64), [0.0, 2.0],
                         gradient=Adjoint(norm=norm), **tight(1e-6))  # fmt: skip
        (grad,) = torch.autograd.grad(solution.ys[-1].sum(), k)
        return grad.item(), solution.stats.backward_f_calls

    exact = 0.0
    for r in rates.tolist():
        wave = (r * math.cos(240) + 120 * math.sin(240) - r * math.exp(-2 * r)) / (r * r + 120**2)
        exact += ((1 - math.exp(-2 * r)) / r - wave) / 2
    full, calls = found("full")
    semi, fewer = found("semi")
    assert abs(full - exact) < 1e-5
    assert abs(semi - exact) > 10 * abs(full - exact)
    assert fewer < calls
