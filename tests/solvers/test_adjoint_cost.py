"""What a backward solve costs: evaluations of f, products with its Jacobian, and those of its
parameters' part."""

from __future__ import annotations

import pytest
import torch

from ode_core import FixedSteps, PIDController, SolveError, Tolerance, solve
from ode_solvers import Adjoint, Interpolated
from ode_solvers.gradients.anchors import Belt, loosest
from ode_solvers.gradients.totals import Totals
from tests.problems import F64

METHODS = [Adjoint(), Adjoint(norm="semi"), Interpolated()]
IDS = ["full", "semi", "interpolated"]


class Asked(torch.autograd.Function):
    """A parameter that counts how often its gradient is asked for."""

    @staticmethod
    def forward(ctx, x, counts):
        ctx.counts = counts
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.counts.append(1)
        return grad, None


class Net(torch.nn.Module):
    def __init__(self, dtype=torch.float32, features=8, width=16, gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.counts = []
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(features, width), torch.nn.Tanh(), torch.nn.Linear(width, features)
        ).to(dtype)
        with torch.no_grad():
            for x in self.layers.parameters():
                x.mul_(gain)
        self.shift = torch.nn.Parameter(torch.zeros(features, dtype=dtype))

    def forward(self, t, y):
        return self.layers(y) + Asked.apply(self.shift, self.counts)


def backward(net, gradient, times=(0.0, 1.0), loss=None, batch=32, **options):
    """Return the flat gradient and the statistics of a solve from random starts."""
    torch.manual_seed(1)
    y0 = torch.randn(batch, 8).to(net.shift.dtype).requires_grad_()
    solution = solve(net, y0, list(times), gradient=gradient, **options)
    net.counts.clear()
    value = solution.ys.square().mean() if loss is None else loss(solution.ys)
    found = torch.autograd.grad(value, [y0, *net.parameters()])
    return torch.cat([x.flatten() for x in found]), solution.stats


def off(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("gradient", METHODS, ids=IDS)
@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
def test_the_backward_solve_does_not_feel_its_way_to_a_step_size(gradient, gain):
    """A mean over a batch asks for little accuracy, and no step is needed to find that out."""
    net, tolerances = Net(gain=gain), {"rtol": 1e-5, "atol": 1e-6}
    found, stats = backward(net, gradient, **tolerances)
    assert stats.backward_f_calls < 0.9 * stats.f_calls
    exact, _ = backward(Net(F64, gain=gain), "direct", rtol=1e-9, atol=1e-11)
    assert off(found, exact) < 1e-4


@pytest.mark.parametrize("gradient", METHODS, ids=IDS)
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_a_first_step_is_not_rejected(gradient, gain, monkeypatch):
    """A large loss needs more accuracy than the state, whose step size would be too long."""
    attempts = []
    real = PIDController.judge

    def judge(self, error, order, memory):
        attempts.append(error)
        return real(self, error, order, memory)

    def total(ys):
        attempts.clear()
        return 100.0 * ys[-1].square().sum()

    monkeypatch.setattr(PIDController, "judge", judge)
    backward(Net(F64, gain=gain), gradient, loss=total, rtol=1e-6, atol=1e-7)
    assert 1e-3 < attempts[0] <= 1.0


@pytest.mark.parametrize("gradient", [Adjoint(anchors=0), Interpolated()], ids=lambda g: g.name)
@pytest.mark.parametrize(
    ("solver", "calls", "asked"),
    [("dopri5", 6, 5), ("rk4", 4, 4), ("bosh3", 3, 3), ("euler", 1, 1)],
)
@pytest.mark.parametrize("outputs", [2, 5])
def test_stages_without_a_weight_have_no_part_in_the_sums(gradient, solver, calls, asked, outputs):
    """Given steps: one product a stage, the parameters' where it has a weight, none at the end."""
    net, times = Net(), torch.linspace(0.0, 1.0, outputs).tolist()
    steps = {"controller": FixedSteps(), "dt": 0.125, "solver": solver}
    _, stats = backward(net, gradient, times, **steps)
    assert stats.backward_f_calls == 8 * calls
    assert len(net.counts) == 8 * asked


def test_the_error_of_the_sums_is_what_the_full_norm_costs():
    """dopri5's last slope has a weight in the error alone, and in the step that follows."""
    net = Net()
    _, full = backward(net, Adjoint(), rtol=1e-6, atol=1e-6)
    asked = len(net.counts)
    _, semi = backward(net, Adjoint(norm="semi"), rtol=1e-6, atol=1e-6)
    steps = (full.backward_f_calls - 1) // 6
    assert semi.backward_f_calls == full.backward_f_calls == 6 * steps + 1
    # One at the start, in each step all but the second stage.
    assert asked == 1 + 5 * steps
    assert len(net.counts) == asked - 1


@pytest.mark.parametrize(("solver", "rtol"), [("dopri8", 1e-13), ("kvaerno5", 1e-8)])
def test_steps_that_are_taken_whatever_their_error_have_their_part_in_the_sums(solver, rtol):
    """No step may be shorter than a half, and all that are proposed would be."""
    net, rough = Net(F64), PIDController(dt_min=0.5)
    gradient = Adjoint(solver=solver, rtol=rtol, atol=rtol, anchors=0)
    options = {"rtol": 1e-9, "atol": 1e-11, "batch": 2}
    found, stats = backward(net, gradient, controller=rough, **options)
    exact, fine = backward(net, "direct", **options)
    assert stats.accepted == 2
    assert fine.accepted > 2
    assert off(found, exact) < 1e-4


def test_both_halves_keep_the_states_memory_format():
    seen, conv = set(), torch.nn.Conv2d(4, 4, 3, padding=1)

    def f(t, y):
        seen.add(y.is_contiguous(memory_format=torch.channels_last))
        return torch.tanh(conv(y))

    y0 = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    ys = solve(f, y0, [0.0, 1.0], gradient="adjoint").ys
    seen.clear()
    found = torch.autograd.grad(ys[-1].square().sum(), [y0, *conv.parameters()])
    assert seen == {True}
    exact = torch.autograd.grad(solve(f, y0, [0.0, 1.0]).ys[-1].square().sum(),
                                [y0, *conv.parameters()])  # fmt: skip
    assert all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, exact, strict=True)
    )


@pytest.mark.parametrize("gradient", METHODS, ids=IDS)
def test_parameters_of_several_dtypes(gradient):
    """Sums of one dtype are one tensor; gradients come in each parameter's own."""
    half = torch.tensor([0.3, -0.2], dtype=torch.float32, requires_grad=True)
    whole = torch.tensor([[0.1, 0.9], [-0.9, 0.1]], dtype=F64, requires_grad=True)
    turn = torch.tensor(0.2 + 0.5j, dtype=torch.complex128, requires_grad=True)
    idle = torch.zeros(3, dtype=F64, requires_grad=True)
    given = (half, whole, turn)

    def f(t, y):
        pair = torch.view_as_real(torch.view_as_complex(y) * turn)
        return y @ whole + half.double() * torch.cos(y) + pair + 0.0 * idle.sum()

    def gradients(method):
        y0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=F64)
        ys = solve(f, y0, [0.0, 0.5, 1.0], gradient=method, rtol=1e-9, atol=1e-9).ys
        return torch.autograd.grad(ys.square().sum(), (*given, idle))

    found, exact = gradients(gradient), gradients("direct")
    assert [x.dtype for x in found] == [x.dtype for x in (*given, idle)]
    for a, b in zip(found, exact, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)
        assert a.untyped_storage().nbytes() == a.nbytes, "a gradient is no part of another tensor"


def test_sums_count_all_parameters_as_one_block():
    parameters = (torch.zeros(3), torch.zeros(1, dtype=F64))
    totals = Totals(parameters, torch.zeros(1), Tolerance(0.0, 0.5))
    totals.begin(2)
    totals.take([torch.full((3,), 2.0), torch.tensor([4.0], dtype=F64)], (1.0, 0.25))
    assert totals.norms() == pytest.approx([((3 * 1.0**2 + 2.0**2) / 4) ** 0.5])
    totals.accept()
    totals.begin(2)
    totals.take([None, torch.tensor([4.0], dtype=F64)], (1.0, 0.0))
    totals.accept()
    assert [x.tolist() for x in totals.gradients()] == [[2.0] * 3, [8.0]]
    assert totals.norms() == (0.0,)


def test_within_a_step_its_polynomials_error_is_allowed_for():
    belt = Belt({}, Tolerance(0.0, 1e-3), "take another", strict=True)
    stored = torch.zeros(4)
    for away, inside, at_an_end in ((0.5, False, False), (3.0, False, True), (6.0, True, True)):
        rebuilt = torch.full((4,), away * 1e-3)
        assert belt.left(0.0, rebuilt, stored, within=True) is inside
        assert belt.left(0.0, rebuilt, stored, within=False) is at_an_end
    for within in (True, False):
        with pytest.raises(SolveError, match="take another"):
            belt.left(0.0, stored + 0.2, stored, within=within)


def test_the_loosest_of_tolerances():
    each = Tolerance(1e-4, torch.tensor([1e-3, 1e-9], dtype=F64))
    found = loosest([each, each, Tolerance(1e-6, 1e-6)], torch.float32)
    eps = 16 * torch.finfo(torch.float32).eps
    assert found.rtol == 1e-4
    assert found.atol.tolist() == pytest.approx([1e-3, eps])
    assert loosest([Tolerance(1e-8, 1e-9)], F64).atol == 1e-9
