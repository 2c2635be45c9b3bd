"""Exact methods give the discrete gradient, the adjoint converges to it, counts are the study's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ode_core
from ode_core import ArgumentError, SolveError, UnsupportedError, solve
from ode_core.capture import Capture
from ode_solvers import Adjoint, Checkpoint
from tests.problems import F64, Chirp, flat, lotka_volterra

SOLVERS = list(ode_core.solvers)
ADAPTIVE = [name for name in SOLVERS if ode_core.solvers[name].adaptive]
IN_TORCH = [name for name in SOLVERS if ode_core.solvers[name].differentiable]


class Net(nn.Module):
    def __init__(self, dim=2, hidden=16, dtype=F64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim + 1, hidden), nn.Tanh(), nn.Linear(hidden, dim))
        self.to(dtype)

    def forward(self, t, y):
        return self.layers(torch.cat([y, t.expand(len(y), 1)], 1))


def options(name, tolerance=1e-7):
    if not ode_core.solvers[name].adaptive:
        return {"dt": 0.11}
    tolerance = 1e-4 if ode_core.solvers[name].order < 3 else tolerance
    return {"rtol": tolerance, "atol": tolerance}


def gradients(gradient, name="dopri5", times=(0.0, 0.33, 0.7, 1.0), timed=False, **changed):
    torch.manual_seed(1)
    net = Net()
    y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    t = torch.tensor(times, dtype=F64, requires_grad=timed)
    f, state = net, y0
    if ode_core.solvers[name].takes_pairs:
        f, state = (lambda t, pair: (pair[1], net(t, pair[0]))), (y0, 0.5 * y0)
    solution = solve(f, state, t, solver=name, gradient=gradient, **(options(name) | changed))
    ys = flat(solution.ys)
    weights = torch.arange(ys.numel(), dtype=F64).reshape(ys.shape)
    loss = (ys * (1 + weights / 10)).sin().sum()
    wanted = [y0, *net.parameters(), *([t] if timed else [])]
    return torch.autograd.grad(loss, wanted), solution.stats


def off(found, exact):
    top = sum((a - b).abs().square().sum() for a, b in zip(found, exact, strict=True))
    return math.sqrt(top / sum(b.abs().square().sum() for b in exact))


@pytest.mark.parametrize("name", IN_TORCH)
@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.33, 0.7, 1.0), (1.0, 0.4, 0.0)], ids=str)
def test_checkpoint_is_the_gradient_of_the_discrete_solve(name, times):
    exact, _ = gradients("direct", name, times, timed=True)
    _, forward = gradients("direct", name, times)
    found, stats = gradients("checkpoint", name, times, timed=True)
    record = ode_core.solvers[name]
    if record.implicit:
        # A replay solves the stages to round-off, a step with a tolerance to a part of it.
        assert off(found, exact) < (options(name)["rtol"] / 100 if record.adaptive else 1e-13)
        assert stats.f_calls < forward.f_calls, "what direct records is evaluated once more"
    else:
        assert off(found, exact) < 1e-12
        assert stats.f_calls == forward.f_calls
    assert stats.backward_f_calls > 0


@pytest.mark.parametrize("name", IN_TORCH)
def test_direct_is_the_derivative_by_finite_differences(name):
    y0 = torch.tensor([1.0, 1.2], dtype=F64, requires_grad=True)
    fixed = {"controller": ode_core.FixedSteps(), "dt": 0.2}
    paired = ode_core.solvers[name].takes_pairs

    def end(y0):
        f, state = (Chirp(), (y0, 0.5 * y0)) if paired else (lotka_volterra, y0)
        return flat(solve(f, state, [0.0, 0.5, 1.0], solver=name, **fixed).ys)

    assert torch.autograd.gradcheck(end, (y0,))
    assert torch.autograd.gradgradcheck(end, (y0,))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_adjoint_converges_to_the_gradient(name):
    exact, _ = gradients("direct", "dopri8", rtol=1e-11, atol=1e-11, timed=True)
    order = ode_core.solvers[name].order
    tolerances = (1e-3, 1e-5) if order < 3 else (1e-4, 1e-8)
    errors = [off(gradients("adjoint", name, rtol=tol, atol=tol, timed=True)[0], exact)
              for tol in tolerances]  # fmt: skip
    # Fehlberg's estimate is 1/512 of an ordinary one; trbdf2 controls one of a higher power of the
    # step than the others of order 2.
    slack = {"fehlberg2": 20, "trbdf2": 10}.get(name, 1)
    assert errors[1] < slack * 1e-2 * tolerances[1] ** 0.5
    assert errors[1] < max(errors[0], 1e-9)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(("name", "stages"), [("rk4", 4), ("midpoint", 2), ("euler", 1)])
def test_one_step_costs_the_studys_counts(name, stages, timed):
    """Forward 4, 2, 1; backward the same, one more where t requires a gradient."""
    _, stats = gradients("adjoint", name, (0.0, 1.0), timed, dt=1.0)
    assert stats.f_calls == stages
    assert stats.backward_f_calls == stages + timed


def test_the_adjoint_of_one_euler_step_is_far_off_and_of_many_is_not():
    exact = [gradients("direct", "euler", (0.0, 1.0), dt=dt)[0] for dt in (1.0, 0.01)]
    found = [gradients("adjoint", "euler", (0.0, 1.0), dt=dt)[0] for dt in (1.0, 0.01)]
    assert off(found[0], exact[0]) > 0.1
    assert off(found[1], exact[1]) < 0.02


# Integrated with the variational equations in 128-bit arithmetic.
LOTKA_VOLTERRA = {
    "x0": (1.965996054728169, -2.743979155920181),
    "y0": (0.1885687770780593, 0.2117134891466831),
}


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_lotka_volterras_known_sensitivities(gradient):
    start = torch.ones(2, dtype=F64, requires_grad=True)
    end = solve(lotka_volterra, start, [0.0, 10.0], solver="dopri8", gradient=gradient,
                rtol=1e-11, atol=1e-11).ys[-1]  # fmt: skip
    rows = [torch.autograd.grad(end[i], start, retain_graph=True)[0] for i in range(2)]
    found = torch.stack(rows)
    wanted = torch.tensor([LOTKA_VOLTERRA["x0"], LOTKA_VOLTERRA["y0"]], dtype=F64).T
    assert torch.allclose(found, wanted, rtol=1e-7)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_tensors_that_f_closes_over_get_their_gradients(gradient):
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
        ys = solve(f, y0, [0.0, 0.5, 1.0], gradient=gradient, jump_times=[0.5], rtol=1e-10,
                   atol=1e-10).ys  # fmt: skip
        return torch.autograd.grad(ys.square().sum(), [scale, seed, late])

    assert off(run(gradient), run("direct")) < 1e-7


def test_what_f_makes_itself_is_not_taken_for_an_input():
    weight = torch.ones((), requires_grad=True)
    with torch.no_grad(), Capture() as capture, torch.enable_grad():
        inner = (weight * 2.0) + 1.0
        torch.sin(inner)
    assert [id(x) for x in capture.tensors] == [id(weight)]


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_field_that_differentiates_inside_itself(gradient):
    """A Hamiltonian field, its own gradient taken within f."""
    potential = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).to(F64)

    def f(t, s):
        with torch.enable_grad():
            q = s[:, :1] if s.requires_grad else s[:, :1].detach().requires_grad_()
            force = torch.autograd.grad(potential(q).sum(), q, create_graph=True)[0]
        return torch.cat([s[:, 1:], -force], 1)

    def run(gradient):
        y0 = torch.tensor([[0.5, 0.1]], dtype=F64, requires_grad=True)
        ys = solve(f, y0, [0.0, 1.0], gradient=gradient, rtol=1e-9, atol=1e-9).ys
        # The last bias shifts the energy and no force.
        return torch.autograd.grad(ys[-1].sum(), [y0, *list(potential.parameters())[:3]])

    assert off(run(gradient), run("direct")) < 1e-6


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_complex_states(gradient):
    rate = torch.tensor(0.3 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j, -0.2j], dtype=torch.complex128, requires_grad=True)
    ys = solve(lambda t, y: rate * y, y0, [0.0, 0.8], gradient=gradient, rtol=1e-10, atol=1e-10).ys
    found = torch.autograd.grad((ys[-1] * (0.3 - 0.4j)).real.sum(), [y0, rate])
    exact = torch.autograd.grad(((y0 * (0.8 * rate).exp()) * (0.3 - 0.4j)).real.sum(), [y0, rate])
    assert off(found, exact) < 1e-8


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
def test_gradients_of_times_move_states_along_the_field(gradient):
    y0 = torch.tensor([2.0], dtype=F64)
    t = torch.tensor([0.3, 1.0, 1.0, 2.0], dtype=F64, requires_grad=True)
    f = lambda t, y: -y * t
    ys = solve(f, y0, t, gradient=gradient, rtol=1e-10, atol=1e-10).ys
    (found,) = torch.autograd.grad(ys[1:].sum(), t)
    exact = [2 * math.exp((0.09 - s * s) / 2) for s in (1.0, 1.0, 2.0)]
    wanted = [0.3 * sum(exact), -exact[0], -exact[1], -2 * exact[2]]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


def test_step_sizes_are_constants_of_the_differentiation():
    """The same accepted steps given as a grid have the same gradient."""
    y0 = torch.tensor([1.0, 1.0], dtype=F64, requires_grad=True)
    chosen = solve(lotka_volterra, y0, [0.0, 3.0], record_steps=True)
    kept = chosen.steps.accepted
    grid = [0.0, *(chosen.steps.t + chosen.steps.dt)[kept].tolist()]
    given = solve(lotka_volterra, y0, [0.0, 3.0], controller=ode_core.FixedSteps(grid))
    first, second = (torch.autograd.grad(s.ys[-1].sum(), y0)[0] for s in (chosen, given))
    assert torch.allclose(first, second, rtol=1e-14)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_without_anything_to_differentiate_the_plain_solve_is_returned(gradient):
    plain = solve(lotka_volterra, torch.ones(2), [0.0, 1.0], gradient=gradient)
    assert not plain.ys.requires_grad
    with torch.no_grad():
        net = Net()
        assert not solve(
            net, torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient
        ).ys.requires_grad


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_no_graph_is_kept_in_the_forward_solve(gradient):
    recorded = []

    class Spy(Net):
        def forward(self, t, y):
            recorded.append(torch.is_grad_enabled())
            return super().forward(t, y)

    solve(Spy(), torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient)
    assert not any(recorded)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_weights_changed_between_the_passes_are_noticed(gradient):
    net = Net()
    ys = solve(net, torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient).ys
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()


@pytest.mark.parametrize("gradient", ["symplectic", "adjoint"])
def test_second_derivatives_are_refused_by_name(gradient):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    ys = solve(lotka_volterra, y0, [0.0, 1.0], gradient=gradient).ys
    with pytest.raises(UnsupportedError, match=f"'{gradient}' offers no second derivatives"):
        torch.autograd.grad(ys.sum(), y0, create_graph=True)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_backward_twice_adds_to_the_count(gradient):
    net = Net()
    solution = solve(net, torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient)
    solution.ys.sum().backward(retain_graph=True)
    once = solution.stats.backward_f_calls
    first = [p.grad.clone() for p in net.parameters()]
    solution.ys.sum().backward()
    assert solution.stats.backward_f_calls == 2 * once > 0
    assert all(torch.allclose(p.grad, 2 * g) for p, g in zip(net.parameters(), first, strict=True))


def test_interpolation_is_differentiable_with_direct_and_says_so_elsewhere():
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    dense = solve(lotka_volterra, y0, [0.0, 1.0], dense=True)
    assert torch.autograd.grad(dense.interpolate(0.4).sum(), y0)[0].abs().sum() > 0
    other = solve(lotka_volterra, y0, [0.0, 1.0], dense=True, gradient="checkpoint")
    with pytest.raises(UnsupportedError, match="carries no gradient with gradient='checkpoint'"):
        other.interpolate(0.4)
    with torch.no_grad():
        assert torch.allclose(other.interpolate(0.4), dense.interpolate(0.4))


def test_the_adjoints_own_solver_and_tolerances_change_the_backward_solve():
    _, plain = gradients("adjoint")
    _, tight = gradients(Adjoint(rtol=1e-11, atol=1e-11))
    _, other = gradients(Adjoint(solver="dopri8"))
    counts = {s.backward_f_calls for s in (plain, tight, other)}
    assert len(counts) == 3
    assert tight.backward_f_calls > plain.backward_f_calls
    with pytest.raises(ArgumentError, match="no effect on a backward solve with fixed steps"):
        gradients(Adjoint(rtol=1e-3), "rk4")


def test_a_backward_solve_that_cannot_be_finished_raises():
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    costly = Adjoint(solver="bosh3", rtol=1e-12, atol=1e-12)
    ys = solve(lotka_volterra, y0, [0.0, 1.0], gradient=costly, max_steps=100).ys
    with pytest.raises(SolveError, match="backward solve of gradient='adjoint' by bosh3 stopped"):
        ys[-1].sum().backward()


def test_a_solver_with_a_carry_of_its_own_is_replayed_with_it():
    """Two-step Adams-Bashforth: its carry cannot be rebuilt from a state."""

    class AdamsBashforth:
        name, order, adaptive, implicit, one_step = "ab2", 2, False, False, False

        def init(self, f, t, y):
            return (f(t, y), torch.zeros(y.dim() * (0,) or (0,), dtype=y.dtype))

        def step(self, f, t0, t1, y, carry, tolerance):
            slope = f(t0, y)
            y1 = y + (t1 - t0) * (1.5 * slope - 0.5 * carry[0])
            return ode_core.Step(y1, None, (slope, carry[1]), None)

    def run(gradient):
        torch.manual_seed(3)
        net = Net()
        y0 = torch.randn(2, 2, dtype=F64, requires_grad=True)
        ys = solve(net, y0, [0.0, 0.5, 1.0], solver=AdamsBashforth(), gradient=gradient, dt=0.1).ys
        return torch.autograd.grad(ys.square().sum(), [y0, *net.parameters()])

    assert off(run(Checkpoint()), run("direct")) < 1e-13
    assert off(run(Adjoint()), run("direct")) < 0.1


def test_parameters_in_another_dtype_get_gradients_in_theirs():
    net = Net(dtype=torch.float32)
    f = lambda t, y: net(t.float(), y.float()).double()
    for gradient in ("checkpoint", "adjoint"):
        net.zero_grad()
        y0 = torch.ones(1, 2, dtype=F64)
        solve(f, y0, [0.0, 1.0], gradient=gradient, rtol=1e-4, atol=1e-4).ys[-1].sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_frozen_and_unused_parameters():
    for gradient in ("checkpoint", "adjoint"):
        net = Net()
        net.unused = nn.Parameter(torch.ones(1, dtype=F64))
        net.layers[0].weight.requires_grad_(False)
        solve(net, torch.ones(1, 2, dtype=F64), [0.0, 1.0], gradient=gradient).ys.sum().backward()
        assert net.layers[0].weight.grad is None
        assert net.layers[2].weight.grad.abs().sum() > 0
        assert net.unused.grad is None or not net.unused.grad.any()


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("name", ["dopri5", "rk4"])
@pytest.mark.parametrize("times", [(0.0, 0.5, 1.0), (1.0, 0.5, 0.2, 0.0), (0.0, 0.5)], ids=str)
def test_an_output_exactly_at_a_jump(gradient, name, times):
    def run(gradient):
        y0 = torch.tensor([1.0, 0.3], dtype=F64, requires_grad=True)
        rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
        f = lambda t, y: rate * torch.where(t < 0.5, -y, y.sin())
        chosen = {"dt": 0.01} if name == "rk4" else {"rtol": 1e-10, "atol": 1e-10}
        ys = solve(f, y0, times, solver=name, gradient=gradient, jump_times=[0.5], **chosen).ys
        return torch.autograd.grad((ys[1:] * torch.tensor([1.0, 3.0])).sum(), [y0, rate])

    # Where the solve ends at the jump its last stage, at the end itself, sees the far side.
    assert off(run(gradient), run("direct")) < (1e-12 if gradient == "checkpoint" else 1e-5)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_failed_solve_carries_no_gradient(gradient):
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    solution = solve(lambda t, y: y * y, y0, [0.0, 2.0], gradient=gradient, on_failure="return")
    assert torch.isnan(solution.ys[-1]).all()
    assert not solution.ys.requires_grad
